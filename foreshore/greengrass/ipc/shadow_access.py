"""What the four shadow operations share: names, limits, authorization and the translation of errors."""

from __future__ import annotations

import re
from collections.abc import Awaitable
from typing import TypeVar

from foreshore.errors import AwsError, NotEmulated
from foreshore.greengrass.authorization import SHADOWS
from foreshore.greengrass.ipc.operation import (
    Call,
    IpcError,
    Shadows,
    invalid_arguments,
    not_found,
    service_error,
    unauthorized,
)

T = TypeVar("T")
MAX_THING = 128
MAX_SHADOW = 64
_NAME = re.compile(r"[a-zA-Z0-9:_-]+")


def shadow_resource(thing: str, name: str | None) -> str:
    """The resource that policies name: the shadow's topic prefix."""
    return f"$aws/things/{thing}/shadow" + (f"/name/{name}" if name else "")


def open_shadow(call: Call, operation: str) -> tuple[Shadows, str, str | None]:
    """(shadows, thing name, shadow name or None) of a request that may go on. Raises IpcError, NotEmulated."""
    thing = call.request.get("thingName") or ""
    name = call.request.get("shadowName") or None
    check_name("thingName", thing, MAX_THING)
    if name is not None:
        check_name("shadowName", name, MAX_SHADOW)
    call.authorize(SHADOWS, operation, shadow_resource(thing, name))
    return require_shadows(call), thing, name


def require_shadows(call: Call) -> Shadows:
    """The core's shadows. Raises NotEmulated when it was started without."""
    if call.core.shadows is None:
        raise NotEmulated("shadows on a core without IoT Core", "Start IoT Core too: `foreshore dev`.")
    return call.core.shadows


def check_name(member: str, value: str, limit: int) -> None:
    """Raise InvalidArgumentsError on a name that IoT Core does not take (letters, digits, `:`, `_`, `-`)."""
    if not value:
        raise invalid_arguments(f"{member} is required")
    if len(value) > limit:
        raise invalid_arguments(f"{member} has more than {limit} characters")
    if _NAME.fullmatch(value) is None:
        raise invalid_arguments(f"{member} must match {_NAME.pattern}")


async def answer(pending: Awaitable[T], thing: str, name: str | None) -> T:
    """Await the data plane, its errors turned into the IPC's."""
    try:
        return await pending
    except AwsError as error:
        raise _translated(error, thing, name) from error


def _translated(error: AwsError, thing: str, name: str | None) -> AwsError:
    if isinstance(error, NotEmulated):
        return error
    if error.status == 404:
        return not_found("No shadow found", "shadow", shadow_resource(thing, name))
    if error.status == 409:
        return IpcError("ConflictError", error.message)
    if error.status in (400, 413):
        return invalid_arguments(error.message)
    return unauthorized(error.message) if error.status in (401, 403) else service_error(error.message)
