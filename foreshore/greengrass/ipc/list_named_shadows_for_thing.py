"""ListNamedShadowsForThing: pages of 25 names, 100 at most."""

from __future__ import annotations

from foreshore.greengrass.authorization import SHADOWS
from foreshore.greengrass.ipc.operation import Call, Member, Operation, Reply, integer, invalid_arguments, text
from foreshore.greengrass.ipc.shadow_access import MAX_THING, answer, check_name, require_shadows

DEFAULT_PAGE = 25
MAX_PAGE = 100


async def handle(call: Call) -> Reply:
    """Authorize on the thing's name, then list."""
    request = call.request
    thing = request.get("thingName") or ""
    check_name("thingName", thing, MAX_THING)
    call.authorize(SHADOWS, "ListNamedShadowsForThing", thing)
    size = request.get("pageSize")
    size = DEFAULT_PAGE if size is None else size
    if not 1 <= size <= MAX_PAGE:
        raise invalid_arguments(f"pageSize must be from 1 to {MAX_PAGE}")
    shadows = require_shadows(call)
    names, token, time = await answer(shadows.list_named(thing, request.get("nextToken"), size), thing, None)
    reply: dict[str, object] = {"results": names, "timestamp": time}
    if token:
        reply["nextToken"] = token
    return reply


OPERATION = Operation(
    "ListNamedShadowsForThing",
    handle,
    {"thingName": Member(text), "nextToken": Member(text), "pageSize": Member(integer)},
    plugin="aws.greengrass.ShadowManager",
)
