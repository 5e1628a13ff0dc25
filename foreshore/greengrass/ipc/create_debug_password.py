"""CreateDebugPassword: a login for the local debug console, valid for eight hours."""

from __future__ import annotations

from foreshore.greengrass.ipc.cli_access import ANY, authorize
from foreshore.greengrass.ipc.operation import Call, Operation, Reply


def handle(call: Call) -> Reply:
    """Make one. The console here is served without TLS, so the certificate hashes are left out."""
    authorize(call, "CreateDebugPassword", ANY)
    username, password, expires = call.core.create_debug_password()
    return {"username": username, "password": password, "passwordExpiration": expires}


OPERATION = Operation("CreateDebugPassword", handle, {}, plugin="aws.greengrass.Cli")
