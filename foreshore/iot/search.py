"""The query language of fleet indexing: parse a query once, then ask it of documents. Pure.

Terms are `field:value` and bare values (any field of the thing's name, type, groups or attributes), joined by AND, OR,
NOT and parentheses; terms beside each other are joined by AND. A value may hold `*` and `?`, stand in quotes, or be a
range: `field:[a TO b]`, `{a TO b}`, `field>a`, `>=`, `<`, `<=`. Numbers are compared as numbers. Several values of one
field go in parentheses, `thingName:(tv* AND -plasma)`, as terms do. Case means nothing in values, and a text of
several words is found by each of them.

Fields are paths into a document: `thingName`, `attributes.floor`, `shadow.reported.temperature`,
`shadow.name.<name>.reported.x`, `connectivity.connected`, `thingGroupNames`.

Source: AWS IoT developer guide, "Query syntax" and "Example thing queries".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from foreshore.errors import AwsError, NotEmulated

Document = Mapping[str, Any]
Query = Callable[[Document], bool]

MAX_TERMS = 12
"""Query terms of one query (AWS IoT fleet indexing quotas)."""

MAX_LEADING = 100
"""Characters of a query with a leading wildcard; one term of it may have one ("Example thing queries")."""

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<open>\() | (?P<close>\)) |
        (?P<range>[\[{][^\]}]*[\]}]) |
        (?P<quoted>"(?:\\.|[^"\\])*") |
        (?P<colon>:) |
        (?P<compare>[<>]=?) |
        (?P<word>(?:\\.|[^\s():"\[\]{}<>])+)
    )""",
    re.VERBOSE,
)
_BARE_FIELDS = ("thingName", "thingTypeName", "thingGroupNames", "thingGroupName", "attributes", "shadow")
_LEADING = re.compile(r"[*?].")
QUERY_VERSION = "2017-09-30"


def _broken(text: str) -> AwsError:
    return AwsError("InvalidQueryException", f"The query is not valid: {text}", 400)


def _tokens(text: str) -> list[tuple[str, str]]:
    found = []
    position = 0
    text = text.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise _broken(f"unexpected {text[position:].strip()[:10]!r} at column {position + 1}")
        kind = match.lastgroup or ""
        found.append((kind, match[kind]))
        position = match.end()
    return found


@dataclass(slots=True)
class _Parser:
    tokens: list[tuple[str, str]]
    position: int = 0
    terms: int = 0
    leading: int = 0
    of_field: str = ""
    """The field whose parentheses we are in."""

    def peek(self, ahead: int = 0) -> tuple[str, str]:
        place = self.position + ahead
        return self.tokens[place] if place < len(self.tokens) else ("end", "")

    def take(self) -> tuple[str, str]:
        token = self.peek()
        self.position += 1
        return token

    def is_word(self, word: str) -> bool:
        return self.peek() == ("word", word)

    def any_of(self) -> Query:
        parts = [self.all_of()]
        while self.is_word("OR"):
            self.take()
            parts.append(self.all_of())
        return parts[0] if len(parts) == 1 else lambda document: any(part(document) for part in parts)

    def all_of(self) -> Query:
        parts = [self.negation()]
        while self.peek()[0] not in ("end", "close") and not self.is_word("OR"):
            if self.is_word("AND"):
                self.take()
            parts.append(self.negation())
        return parts[0] if len(parts) == 1 else lambda document: all(part(document) for part in parts)

    def negation(self) -> Query:
        if self.is_word("NOT") or (self.is_word("-") and self.peek(1)[0] in ("open", "quoted")):
            self.take()
            inner = self.negation()
            return lambda document: not inner(document)
        if self.peek()[0] == "word" and self.peek()[1].startswith("-") and len(self.peek()[1]) > 1:
            self.tokens[self.position] = ("word", self.peek()[1][1:])
            inner = self.primary()
            return lambda document: not inner(document)
        return self.primary()

    def primary(self) -> Query:
        kind, text = self.take()
        if (kind, text) in (("word", "AND"), ("word", "OR")):
            raise _broken(f"{text} has no term before it")
        if kind == "open":
            inner = self.any_of()
            if self.take()[0] != "close":
                raise _broken("a parenthesis is not closed")
            return inner
        if self.of_field and kind in ("word", "quoted", "range", "compare"):
            return self.of_values(self.of_field, self.value(kind, text))
        if kind not in ("word", "quoted"):
            raise _broken("a term is missing" if kind == "end" else f"unexpected {text!r}")
        if kind == "word" and self.peek()[0] == "colon":
            self.take()
            return self.field(_unescape(text))
        if kind == "word" and self.peek()[0] == "compare":
            return self.field(_unescape(text))
        self.count(text)
        test = _text_test(text, kind == "quoted")
        return lambda document: any(test(value) for name in _BARE_FIELDS for value in values_at(document, name))

    def field(self, name: str) -> Query:
        if name.startswith("deviceDefender."):
            raise NotEmulated("fleet indexing's Device Defender violations")
        outer, self.of_field = self.of_field, name
        kind, text = self.take()
        if kind == "open":
            found = self.any_of()
            if self.take()[0] != "close":
                raise _broken("a parenthesis is not closed")
        elif kind in ("word", "quoted", "range", "compare"):
            found = self.of_values(name, self.value(kind, text))
        else:
            raise _broken(f"{name}: has no value")
        self.of_field = outer
        return found

    def of_values(self, name: str, test: Callable[[Any], bool]) -> Query:
        return lambda document: any(test(value) for value in values_at(document, name))

    def value(self, kind: str, text: str) -> Callable[[Any], bool]:
        self.count(text)
        if kind == "range":
            return _range_test(text)
        if kind == "compare":
            bound_kind, bound = self.take()
            if bound_kind != "word":
                raise _broken(f"{text} has no number")
            return _compare_test(text, bound)
        if kind == "word" and text.startswith("geo_distance"):
            raise NotEmulated("fleet indexing's location queries")
        if kind not in ("word", "quoted"):
            raise _broken(f"unexpected {text!r}")
        return _text_test(text, kind == "quoted")

    def count(self, text: str) -> None:
        self.terms += 1
        self.leading += bool(_LEADING.match(text))
        if self.terms > MAX_TERMS:
            raise _broken(f"more than {MAX_TERMS} terms")
        if self.leading > 1:
            raise _broken("more than one term with a leading wildcard")


def check_query_version(params: Mapping[str, Any]) -> None:
    """Raise AwsError InvalidQueryException for a `queryVersion` that is not AWS's only one."""
    version = params.get("queryVersion", QUERY_VERSION)
    if version != QUERY_VERSION:
        raise _broken(f"the query version {version} is not supported, {QUERY_VERSION} is")


@lru_cache(maxsize=1024)
def parse_query(text: str) -> Query:
    """Parse a query. Raises AwsError InvalidQueryException."""
    if text.strip() == "*":
        return lambda document: True
    parser = _Parser(_tokens(text))
    if not parser.tokens:
        raise _broken("it is empty")
    query = parser.any_of()
    if parser.peek()[0] != "end":
        raise _broken(f"unexpected {parser.peek()[1]!r}")
    if parser.leading and len(text) > MAX_LEADING:
        raise _broken(f"with a leading wildcard it has at most {MAX_LEADING} characters")
    return query


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def _text_test(text: str, quoted: bool) -> Callable[[Any], bool]:
    body = text[1:-1] if quoted else text
    if quoted or not re.search(r"(?<!\\)[*?]", body):
        wanted = " ".join(_unescape(body).lower().split())
        number = _number(wanted)
        return lambda value: (
            f" {wanted} " in f" {_words(value)} "
            or (number is not None and not isinstance(value, bool) and _number(value) == number)
        )
    pattern = re.sub(
        r"\\(.)|([*?])|(.)", lambda m: {"*": ".*", "?": "."}[m[2]] if m[2] else re.escape(m[1] or m[3]), body
    )
    compiled = re.compile(pattern, re.DOTALL | re.IGNORECASE)
    return lambda value: any(compiled.fullmatch(each) for each in (as_text(value), *as_text(value).split()))


def _words(value: Any) -> str:
    """A value's words in lower case, one space between them."""
    return " ".join(as_text(value).lower().split())


def as_text(value: Any) -> str:
    """A value as the index holds it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _ordered(value: Any, bound: str) -> int | None:
    """-1, 0 or 1 as value stands to the bound; numbers as numbers, else as text."""
    number, limit = _number(value), _number(bound)
    if number is not None and limit is not None:
        return (number > limit) - (number < limit)
    if limit is not None or isinstance(value, (bool, int, float)):
        return None
    text = as_text(value)
    return (text > bound) - (text < bound)


def _compare_test(sign: str, bound: str) -> Callable[[Any], bool]:
    allowed = {">": (1,), ">=": (0, 1), "<": (-1,), "<=": (-1, 0)}[sign]
    return lambda value: _ordered(value, bound) in allowed


def _range_test(text: str) -> Callable[[Any], bool]:
    bound = r'("[^"]*"|\S+?)'
    parts = re.fullmatch(rf"([\[{{])\s*{bound}\s+TO\s+{bound}\s*([\]}}])", text)
    if parts is None:
        raise _broken(f"{text} is no range")
    opening, low, high, closing = (part.strip('"') for part in parts.groups())
    above = (0, 1) if opening == "[" else (1,)
    below = (0, -1) if closing == "]" else (-1,)

    def test(value: Any) -> bool:
        return (low == "*" or _ordered(value, low) in above) and (high == "*" or _ordered(value, high) in below)

    return test


def values_at(document: Any, path: str) -> Iterator[Any]:
    """Every scalar at a dotted path, and under it; arrays are looked through. Keys may hold dots themselves."""
    if isinstance(document, Mapping):
        if path in document:
            yield from _scalars(document[path])
        position = path.find(".")
        while position >= 0:
            head = path[:position]
            if head in document:
                yield from values_at(document[head], path[position + 1 :])
            position = path.find(".", position + 1)
    elif isinstance(document, Sequence) and not isinstance(document, str):
        for item in document:
            yield from values_at(item, path)


def _scalars(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _scalars(item)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for item in value:
            yield from _scalars(item)
    elif value is not None:
        yield value
