"""Return values to JSON as AWS's Python runtime writes them: a named tuple is an object, bytes are text.

Standard library only: it runs in worker processes. The C encoder of `json` does the work when a value holds nothing
but plain JSON types; anything else takes the slow path. Separators are `, ` and `: `; before python3.12 non-ASCII
characters are escaped (AWS Lambda runtime interface client for Python, its marshaller's documented behaviour).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

UNESCAPED_RUNTIMES = frozenset(f"AWS_Lambda_python3.{minor}" for minor in range(12, 16))
_PLAIN = frozenset((str, int, float, bool, type(None)))
_escaped: Callable[[Any], str] = json.JSONEncoder().encode
_unescaped: Callable[[Any], str] = json.JSONEncoder(ensure_ascii=False).encode


def is_plain(value: Any) -> bool:
    """Whether a value is made of dict with text keys, list, str, int, float, bool and None alone."""
    kind = type(value)
    if kind in _PLAIN:
        return True
    if kind is dict:
        for key, item in value.items():
            if type(key) is not str or (type(item) not in _PLAIN and not is_plain(item)):
                return False
        return True
    if kind is list:
        return all(type(item) in _PLAIN or is_plain(item) for item in value)
    return False


def encode(value: Any, execution_env: str) -> str:
    """Give the JSON text. Raises TypeError or ValueError, worded as AWS's encoder does."""
    text = _unescaped if execution_env in UNESCAPED_RUNTIMES else _escaped
    if is_plain_and_acyclic(value):
        return text(value)
    parts: list[str] = []
    _write(value, text, parts, set())
    return "".join(parts)


def is_plain_and_acyclic(value: Any) -> bool:
    """`is_plain`; a structure too deep to walk is left to the slow path, which finds cycles."""
    try:
        return is_plain(value)
    except RecursionError:
        return False


def _write(value: Any, text: Callable[[Any], str], parts: list[str], open_ids: set[int]) -> None:
    if value is None or isinstance(value, (str, bool, int, float)):
        parts.append(_scalar(value, text))
    elif isinstance(value, (bytes, bytearray)):
        parts.append(text(value.decode("utf-8")))
    elif isinstance(value, Decimal):
        parts.append("NaN" if value.is_nan() else str(value))
    elif isinstance(value, dict) or hasattr(value, "_asdict"):
        _inside(value, open_ids, lambda: _write_object(value, text, parts, open_ids))
    elif isinstance(value, (list, tuple)):
        _inside(value, open_ids, lambda: _write_array(value, text, parts, open_ids))
    else:
        raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _scalar(value: Any, text: Callable[[Any], str]) -> str:
    if isinstance(value, str):
        return text(str(value))
    if isinstance(value, bool) or value is None:
        return text(value)
    return int.__repr__(value) if isinstance(value, int) else _float(value)


def _inside(value: Any, open_ids: set[int], write: Callable[[], None]) -> None:
    if id(value) in open_ids:
        raise ValueError("Circular reference detected")
    open_ids.add(id(value))
    write()
    open_ids.discard(id(value))


def _write_object(value: Any, text: Callable[[Any], str], parts: list[str], open_ids: set[int]) -> None:
    pairs = value if isinstance(value, dict) else value._asdict()
    parts.append("{")
    separator = ""
    for key, item in pairs.items():
        parts.append(f"{separator}{text(_key(key))}: ")
        _write(item, text, parts, open_ids)
        separator = ", "
    parts.append("}")


def _write_array(value: Any, text: Callable[[Any], str], parts: list[str], open_ids: set[int]) -> None:
    parts.append("[")
    separator = ""
    for item in value:
        parts.append(separator)
        _write(item, text, parts, open_ids)
        separator = ", "
    parts.append("]")


def _key(key: Any) -> str:
    if isinstance(key, str):
        return key
    if isinstance(key, bytes):
        return key.decode("utf-8")
    if isinstance(key, bool):
        return "true" if key else "false"
    if key is None:
        return "null"
    if isinstance(key, float):
        return _float(key)
    if isinstance(key, int):
        return int.__repr__(key)
    raise TypeError(f"keys must be str, int, float, bool or None, not {type(key).__name__}")


def _float(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return float.__repr__(value)
