"""What a handler gave, as bytes: its return value, or its exception."""

from __future__ import annotations

import json
from typing import Any


def encode_result(result: Any, encoding: str) -> bytes:
    """A handler's return value as bytes. Raises TypeError for what JSON can't hold."""
    if encoding == "binary" and isinstance(result, (bytes, bytearray)):
        return bytes(result)
    return json.dumps(result).encode()


def encode_error(error: BaseException) -> bytes:
    """A handler's exception as Lambda tells it."""
    return json.dumps({"errorMessage": str(error), "errorType": type(error).__name__}).encode()
