"""GetThingShadow: on a core device's shadows."""

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
    """Authorize on `$aws/things/<thing>/shadow[/name/<name>]`, then get."""
    shadows, thing, name = open_shadow(call, "GetThingShadow")

    document = await answer(shadows.get(thing, name), thing, name)
    return {"payload": binascii.b2a_base64(document, newline=False).decode()}


OPERATION = Operation(
    "GetThingShadow",
    handle,
    {"thingName": Member(text), "shadowName": Member(text)},
    plugin="aws.greengrass.ShadowManager",
)
