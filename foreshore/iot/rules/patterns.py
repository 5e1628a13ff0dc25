"""Java regular expressions over the `regex` module, with a time limit on every match.

Java's syntax is a superset of Python's in the ways that matter here (possessive quantifiers, atomic groups, `\\p{…}`,
class intersection); `regex` knows those, and alone among Python's engines takes a timeout, which is what makes
catastrophic backtracking harmless: a match that takes longer than `TIMEOUT_S` fails the rule for that message. A
linear-time engine would refuse look-around and back-references that AWS accepts. What differs is rewritten in
`_translate`. An invalid expression gives Undefined, as documented.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from foreshore.iot.rules.message import RuleFailed
from foreshore.iot.rules.operators import MAX_TEXT, bounded
from foreshore.iot.rules.values import UNDEFINED, Value, to_string

TIMEOUT_S = 0.05
MAX_PATTERN = 4096
MAX_EXPANSION = 100_000

_REWRITES = {"\\z": "\\Z", "\\Z": "(?=\\n?\\Z)", "\\R": "(?:\\r\\n|[\\n-\\r\\x85\\u2028\\u2029])"}
_PIECE = re.compile(r"\\Q(.*?)(?:\\E|\Z)|\\.", re.DOTALL)
_REPLACEMENT = re.compile(r"\\(.)|\$(\d)|\$\{(\w+)\}|(\$|\\)", re.DOTALL)


def _translate(pattern: str) -> str:
    def piece(match: re.Match[str]) -> str:
        if match[0].startswith("\\Q"):
            return re.escape(match[1])
        return _REWRITES.get(match[0], match[0])

    return _PIECE.sub(piece, pattern)


_TOKEN = re.compile(r"\\.|\[(?:\\.|[^\]\\])*\]?|\{(\d+)(?:,(\d*))?\}|.", re.DOTALL)


def expansion(pattern: str) -> int:
    """How many characters a pattern is when its counted repetitions are written out: `(a{9}){9}` is 81.

    The engine does write them out when it compiles, so nested counts multiply time and memory.
    """
    groups: list[list[int]] = [[]]
    for match in _TOKEN.finditer(pattern):
        token, sizes = match[0], groups[-1]
        if token == "(":
            groups.append([])
        elif token == ")" and len(groups) > 1:
            inner = sum(groups.pop())
            groups[-1].append(max(inner, 1))
        elif match[1] is not None and sizes:
            # Digits beyond six can't be meant, and would make big numbers of small texts.
            sizes[-1] *= max(int(match[1][:6]), int((match[2] or "0")[:6]), 1)
        else:
            sizes.append(1)
    return sum(sum(sizes) for sizes in groups)


@lru_cache(maxsize=512)
def compiled(pattern: str) -> Any:
    """The compiled expression, or None when it is invalid. Raises RuleFailed when it is too large."""
    import regex

    if len(pattern) > MAX_PATTERN or expansion(pattern) > MAX_EXPANSION:
        raise RuleFailed(f"the regular expression {pattern[:80]!r} is too large")
    try:
        return regex.compile(_translate(pattern), regex.VERSION1 | regex.ASCII)
    except (regex.error, ValueError, OverflowError, RecursionError, MemoryError):
        return None


def _limited(pattern: str, match: Callable[[], Any]) -> Any:
    try:
        return match()
    except TimeoutError:
        raise RuleFailed(f"the regular expression {pattern[:80]!r} took longer than {TIMEOUT_S:g} s") from None


def _texts(old: bool, text: Value, pattern: Value) -> tuple[str, str] | None:
    text, pattern = to_string(text, old), to_string(pattern, old)
    return None if text is UNDEFINED or pattern is UNDEFINED else (text, pattern)


def regexp_matches(old: bool, text: Value, pattern: Value) -> Value:
    """Whether the text holds a match."""
    both = _texts(old, text, pattern)
    expression = compiled(both[1]) if both else None
    if both is None or expression is None:
        return UNDEFINED
    return _limited(both[1], lambda: expression.search(both[0], timeout=TIMEOUT_S)) is not None


def regexp_substr(old: bool, text: Value, pattern: Value) -> Value:
    """The first match; Undefined without one."""
    both = _texts(old, text, pattern)
    expression = compiled(both[1]) if both else None
    if both is None or expression is None:
        return UNDEFINED
    match = _limited(both[1], lambda: expression.search(both[0], timeout=TIMEOUT_S))
    return UNDEFINED if match is None else match[0]


def regexp_replace(old: bool, text: Value, pattern: Value, replacement: Value) -> Value:
    """Every match replaced; `$1` and `${name}` stand for groups, a backslash escapes."""
    both = _texts(old, text, pattern)
    replacement = to_string(replacement, old)
    expression = compiled(both[1]) if both else None
    if both is None or expression is None or replacement is UNDEFINED:
        return UNDEFINED
    parts = _replacement(replacement, expression)
    if parts is None:
        return UNDEFINED
    size = len(both[0])

    def replaced(match: Any) -> str:
        nonlocal size
        made = "".join(part if type(part) is str else (match[part[0]] or "") for part in parts)
        size += len(made)
        if size > MAX_TEXT:
            raise RuleFailed(f"regexp_replace made a text of more than {MAX_TEXT} characters")
        return made

    return bounded(_limited(both[1], lambda: expression.sub(replaced, both[0], timeout=TIMEOUT_S)))


def _replacement(text: str, expression: Any) -> list[Any] | None:
    """Java's replacement syntax as texts and one-element tuples of group numbers or names; None when it is invalid."""
    parts: list[Any] = []
    position = 0
    for match in _REPLACEMENT.finditer(text):
        parts.append(text[position : match.start()])
        position = match.end()
        if match[1] is not None:
            parts.append(match[1])
        elif match[2] is not None:
            if int(match[2]) > expression.groups:
                return None
            number, position = _group_number(text, match, expression.groups, position)
            parts.append((number,))
        elif match[3] is not None and match[3] in expression.groupindex:
            parts.append((match[3],))
        else:
            return None
    parts.append(text[position:])
    return parts


def _group_number(text: str, match: re.Match[str], groups: int, position: int) -> tuple[int, int]:
    """Further digits belong to the number as long as such a group exists (java.util.regex.Matcher)."""
    number = int(match[2])
    while position < len(text) and text[position] in "0123456789" and number * 10 + int(text[position]) <= groups:
        number = number * 10 + int(text[position])
        position += 1
    return number, position


FUNCTIONS: dict[str, tuple[Callable[..., Value], int, int]] = {
    "regexp_matches": (regexp_matches, 2, 2),
    "regexp_replace": (regexp_replace, 3, 3),
    "regexp_substr": (regexp_substr, 2, 2),
}
