"""What PauseComponent and ResumeComponent share: whose processes, who may, and how it fails."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from foreshore.errors import UserError
from foreshore.greengrass.authorization import LIFECYCLE
from foreshore.greengrass.components import ComponentNotFound
from foreshore.greengrass.ipc.operation import EMPTY, Call, Reply, invalid_arguments, not_found


async def change(call: Call, operation: str, act: Callable[[str], Awaitable[object]]) -> Reply:
    """Authorize on the component's name, then act on it."""
    name = call.request.get("componentName")
    if not name:
        raise invalid_arguments("Component name is required.")
    call.authorize(LIFECYCLE, operation, name)
    try:
        await act(name)
    except ComponentNotFound as error:
        raise not_found(f"Component {name} not found", "Component", name) from error
    except UserError as error:
        raise invalid_arguments(error.what) from error
    return EMPTY
