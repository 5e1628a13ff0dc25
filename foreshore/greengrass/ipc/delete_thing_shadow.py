"""DeleteThingShadow: on a core device's shadows."""

from __future__ import annotations

import binascii

from foreshore.greengrass.ipc.operation import (
    Call,
    Member,
    Operation,
    Reply,
    text,
)
from foreshore.greengrass.ipc.shadow_access import answer, open_shadow


async def handle(call: Call) -> Reply:
    """Authorize on `$aws/things/<thing>/shadow[/name/<name>]`, then delete."""
    shadows, thing, name = open_shadow(call, "DeleteThingShadow")

    document = await answer(shadows.delete(thing, name), thing, name)
    return {"payload": binascii.b2a_base64(document, newline=False).decode()}


OPERATION = Operation(
    "DeleteThingShadow",
    handle,
    {"thingName": Member(text), "shadowName": Member(text)},
    plugin="aws.greengrass.ShadowManager",
)
