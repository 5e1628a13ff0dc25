"""ValidateAuthorizationToken: the stream manager asks whether an SVCUID is good."""

from __future__ import annotations

from foreshore.greengrass.ipc.operation import Call, IpcError, Member, Operation, Reply, text, unauthorized

AUTHORIZED = "aws.greengrass.StreamManager"
_NAME = "aws.greengrass#ValidateAuthorizationToken"


def handle(call: Call) -> Reply:
    """True, or InvalidTokenError; for the stream manager only."""
    if call.component != AUTHORIZED:
        raise unauthorized(f"{call.component} is not authorized to perform {_NAME}")
    if call.core.tokens.component_of(call.request.get("token") or "") is None:
        raise IpcError("InvalidTokenError", "Authentication token not found")
    return {"isValid": True}


OPERATION = Operation("ValidateAuthorizationToken", handle, {"token": Member(text)}, lite=True)
