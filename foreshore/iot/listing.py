"""Pages of AWS IoT's list operations, in its two spellings: nextToken/maxResults and marker/pageSize. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from foreshore.shapes.service_model import paginate

Item = TypeVar("Item")


def tokens(
    items: Iterable[Item],
    params: dict[str, Any],
    name: str,
    *,
    key: Callable[[Item], str] = str,
    default: int = 100,
    reverse: bool = False,
    code: str = "InvalidRequestException",
) -> dict[str, Any]:
    """A page under `name`, by nextToken and maxResults; `items` ascend by `key`, or descend with `reverse`.

    Raises AwsError `code` for a token that is not ours.
    """
    page, token = paginate(
        items, params.get("nextToken"), params.get("maxResults"), key=key, default=default, reverse=reverse, code=code
    )
    return {name: page, "nextToken": token}


def markers(
    items: Iterable[Item], params: dict[str, Any], name: str, *, key: Callable[[Item], str] = str
) -> dict[str, Any]:
    """A page under `name`, by marker, pageSize and isAscendingOrder (when it is given; ascending otherwise)."""
    down = params.get("ascendingOrder") is False
    ordered = sorted(items, key=key, reverse=down)
    page, token = paginate(ordered, params.get("marker"), params.get("pageSize"), key=key, default=25, reverse=down)
    return {name: page, "nextMarker": token}
