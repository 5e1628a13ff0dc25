"""ValidateAuthorizationToken: the stream manager asks whether an SVCUID is good."""

from __future__ import annotations

from foreshore.greengrass.ipc.operation import Call, IpcError, Member, Operation, Reply, text

AUTHORIZED = "aws.greengrass.StreamManager"
_LITE_REFUSAL = "Component does not have access to token verification IPC command."
_LITE_INVALID = "Invalid token used by stream manager when trying to authorize."
_NAME = "aws.greengrass#ValidateAuthorizationToken"


def handle(call: Call) -> Reply:
    """True, or InvalidTokenError; for the stream manager only."""
    if call.component != AUTHORIZED:
        raise IpcError(
            "UnauthorizedError", f"{call.component} is not authorized to perform {_NAME}", lite=_LITE_REFUSAL
        )
    if call.core.tokens.component_of(call.request.get("token") or "") is None:
        raise IpcError("InvalidTokenError", "Authentication token not found", lite=_LITE_INVALID)
    return {"isValid": True}


OPERATION = Operation(
    "ValidateAuthorizationToken", handle, {"token": Member(text)}, lite=True, lite_members={"token": Member(text, True)}
)
