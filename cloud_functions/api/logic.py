"""Queries, pages and plain JSON. Pure."""

import base64
import json
from decimal import Decimal

DEFAULT_LIMIT = 50
MAX_LIMIT = 500
KEYS = ("pk", "sk", "series")


def limit(text):
    """How many items a page has. Raises ValueError."""
    if text is None:
        return DEFAULT_LIMIT
    number = int(text)
    if not 1 <= number <= MAX_LIMIT:
        raise ValueError(f"limit is 1 to {MAX_LIMIT}")
    return number


def token(key):
    """A page's end as text for the next request, or None."""
    return base64.urlsafe_b64encode(json.dumps(key, sort_keys=True).encode()).decode() if key else None


def start_key(text):
    """The key that a token stands for. Raises ValueError."""
    key = json.loads(base64.urlsafe_b64decode(text.encode()))
    if not isinstance(key, dict) or not {"pk", "sk"} <= set(key) <= set(KEYS):
        raise ValueError("not a token of this API")
    return key


def plain(item):
    """An item without its keys, decimals as numbers."""
    return {name: number(value) for name, value in sorted(item.items()) if name not in KEYS}


def number(value):
    """Whole decimals become int, others float."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return value
