"""UpdateThingShadow: on a core device's shadows."""

from __future__ import annotations

import binascii

from foreshore.greengrass.ipc.operation import (
    Call,
    Member,
    Operation,
    Reply,
    blob,
    text,
)
from foreshore.greengrass.ipc.shadow_access import answer, open_shadow


async def handle(call: Call) -> Reply:
    """Authorize on `$aws/things/<thing>/shadow[/name/<name>]`, then update."""
    shadows, thing, name = open_shadow(call, "UpdateThingShadow")
    payload = binascii.a2b_base64(call.request.get("payload") or "")
    document = await answer(shadows.update(thing, name, payload), thing, name)
    return {"payload": binascii.b2a_base64(document, newline=False).decode()}


OPERATION = Operation(
    "UpdateThingShadow",
    handle,
    {"thingName": Member(text), "shadowName": Member(text), "payload": Member(blob)},
    plugin="aws.greengrass.ShadowManager",
)
