"""PauseComponent: freeze another component's processes."""

from __future__ import annotations

from foreshore.errors import UserError
from foreshore.greengrass.authorization import LIFECYCLE
from foreshore.greengrass.components import ComponentNotFound
from foreshore.greengrass.ipc.operation import (
    EMPTY,
    Call,
    Member,
    Operation,
    Reply,
    invalid_arguments,
    not_found,
    text,
)


async def handle(call: Call) -> Reply:
    """Authorize on the component's name, then pause it."""
    name = call.request.get("componentName")
    if not name:
        raise invalid_arguments("Component name is required.")
    call.authorize(LIFECYCLE, "PauseComponent", name)
    try:
        await call.core.lifecycle.pause_component(name)
    except ComponentNotFound as error:
        raise not_found(f"Component {name} not found", "Component", name) from error
    except UserError as error:
        raise invalid_arguments(error.what) from error
    return EMPTY


OPERATION = Operation("PauseComponent", handle, {"componentName": Member(text)})
