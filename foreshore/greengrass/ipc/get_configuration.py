"""GetConfiguration: any component may read any other's. A leaf comes back as {its name: value}, a map bare."""

from __future__ import annotations

from foreshore.greengrass.configuration import Branch, plain_map
from foreshore.greengrass.ipc.operation import (
    Call,
    Member,
    Operation,
    Reply,
    check_depth,
    not_found,
    path_of,
    stored_name,
    text,
    texts,
)


def handle(call: Call) -> Reply:
    """Read. Classic leaves out names that begin with `_` (Topics.toPOJO)."""
    asked = call.request.get("componentName") or call.component
    component = stored_name(call, asked)
    check_depth(call)
    path = path_of(call.request)
    node = call.core.configuration.find(component, path)
    if node is None:
        raise not_found("Key not found", lite="Key not found.")
    if not isinstance(node, Branch):
        return {"componentName": asked, "value": {path[-1]: node.value}}
    value: object = plain_map(node)
    return {"componentName": asked, "value": value if call.core.profile == "lite" else without_hidden(value)}


def without_hidden(value: object) -> object:
    """A document without the keys that begin with an underscore."""
    if isinstance(value, dict):
        return {key: without_hidden(item) for key, item in value.items() if not key.startswith("_")}
    return value


OPERATION = Operation("GetConfiguration", handle, {"componentName": Member(text), "keyPath": Member(texts)}, lite=True)
