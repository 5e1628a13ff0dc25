"""From query parameters to table keys, and from items to JSON. Pure."""

from __future__ import annotations

import base64
import binascii
import json
from decimal import Decimal
from typing import Any

DEFAULT_LIMIT = 50
MAX_LIMIT = 500
KEYS = ("pk", "sk")
INDEX = "ByKind"


class BadQuery(ValueError):
    """The caller's parameters are wrong; the text says how."""


def limit_of(text: str | None) -> int:
    """The page size asked for. Raises BadQuery."""
    if text is None:
        return DEFAULT_LIMIT
    if not text.isdigit() or not 1 <= int(text) <= MAX_LIMIT:
        raise BadQuery(f"limit must be a number from 1 to {MAX_LIMIT}")
    return int(text)


def query_of(kind: str, device: str | None) -> tuple[str, str, dict[str, str]]:
    """The key to query by, its value, and what else the query needs: one device's partition, or the index of a kind."""
    if device:
        return "pk", f"{kind}#{device}", {}
    return "kind", kind, {"IndexName": INDEX}


def write_token(key: dict[str, Any] | None) -> str | None:
    """An opaque token for the page that starts after `key`; None at the end."""
    if not key:
        return None
    return base64.urlsafe_b64encode(json.dumps(key, sort_keys=True).encode()).decode().rstrip("=")


def read_token(token: str | None, key: str, value: str) -> dict[str, str] | None:
    """The key to go on from. Raises BadQuery for a token that is not ours or belongs to another list."""
    if not token:
        return None
    try:
        start = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    except (binascii.Error, ValueError):
        start = None
    if not isinstance(start, dict) or set(start) != {key, *KEYS} or start[key] != value:
        raise BadQuery("token is not valid here")
    return {name: str(text) for name, text in start.items()}


def to_json(item: dict[str, Any]) -> dict[str, Any]:
    """An item without its table keys and with plain numbers."""
    return {name: plain(value) for name, value in item.items() if name not in KEYS}


def plain(value: Any) -> Any:
    """Decimal to int where it is whole, else to float; the same inside lists and maps."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return value


def page(items: list[dict[str, Any]], last_key: dict[str, Any] | None) -> dict[str, Any]:
    """The answer's body. `token` is there only when there is more."""
    body: dict[str, Any] = {"items": [to_json(item) for item in items]}
    token = write_token(last_key)
    if token:
        body["token"] = token
    return body
