"""Words of AWS IoT SQL, one at a time. It reads no further than asked, so that a template's `}` can end it.

Both quote kinds make strings; a doubled quote stands for one. There are no comments and no quoted identifiers
(developer guide, "Literals" and "Working with nested queries").
"""

from __future__ import annotations

import re
from typing import NamedTuple

from foreshore.iot.rules.problems import SqlParseError

MAX_SQL = 128 * 1024

_SPACE = re.compile(r"\s*")
_WORD = re.compile(r"[^\W\d]\w*")
_VARIABLE = re.compile(r"@\w{0,64}", re.ASCII)
_NUMBER = re.compile(r"(\d+(\.\d+)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_SYMBOL = re.compile(r"<>|<=|>=|==|!=|\|\||[-+*/%=<>(),.\[\]{}:]")


class Token(NamedTuple):
    """`kind` is word, variable, string, number, symbol or end; `text` as written, `value` a string's content."""

    kind: str
    text: str
    start: int
    end: int
    value: str = ""

    @property
    def word(self) -> str:
        """A word in upper case, the empty text for anything else."""
        return self.text.upper() if self.kind == "word" else ""


class Lexer:
    """Tokens of `text` from `position` on."""

    def __init__(self, text: str, position: int = 0) -> None:
        self.text = text
        self.position = position

    def read(self, position: int) -> Token:
        """The token at or after `position`. Raises SqlParseError."""
        text = self.text
        space = _SPACE.match(text, position)
        start = space.end() if space else position
        if start >= len(text):
            return Token("end", "", start, start)
        first = text[start]
        if first in "'\"":
            return self._string(start, first)
        for kind, pattern in (("word", _WORD), ("number", _NUMBER), ("symbol", _SYMBOL), ("variable", _VARIABLE)):
            match = pattern.match(text, start)
            if match:
                return self._checked(Token(kind, match[0], start, match.end()))
        raise SqlParseError(f"Unexpected character '{first}'", text, start, _advice(first))

    def _checked(self, token: Token) -> Token:
        text = self.text
        if token.text == "!=":
            raise SqlParseError("Unexpected character '!'", text, token.start, "not equal is written <>")
        if token.text == "==":
            raise SqlParseError("Unexpected token, 'EQ'", text, token.start, "equal is written =")
        if token.text == "||":
            raise SqlParseError("Unexpected character '|'", text, token.start, "strings are joined with + or concat()")
        if token.text == "@":
            raise SqlParseError(
                "Unexpected character '@'", text, token.start, "a variable is @ and 1 to 64 of A-Z a-z 0-9 _"
            )
        if token.kind == "number" and _WORD.match(text, token.end):
            raise SqlParseError(
                f"Unexpected character '{text[token.end]}' in a number", text, token.end,
                'a key that begins with a digit is read with get(object, "key")',
            )  # fmt: skip
        if token.kind == "variable" and token.end < len(text) and (text[token.end].isalnum() or text[token.end] == "_"):
            raise SqlParseError("A variable's name is longer than 64 characters", text, token.start)
        return token

    def _string(self, start: int, quote: str) -> Token:
        text, parts, position = self.text, [], start + 1
        while True:
            end = text.find(quote, position)
            if end < 0:
                raise SqlParseError("The string does not end", text, start, f"close it with {quote}")
            parts.append(text[position:end])
            if text[end + 1 : end + 2] != quote:
                return Token("string", text[start : end + 1], start, end + 1, quote.join(parts))
            position = end + 2


def _advice(character: str) -> str:
    if character == "!":
        return "not equal is written <>, and negation NOT"
    if character == "`":
        return "there are no quoted identifiers: use get(object, 'key')"
    if character == "$":
        return (
            "a topic filter and a JSON key with $ must stand in single quotes; keys are read with get(object, '$key')"
        )
    if character in ";#":
        return "a rule is one statement without comments"
    return ""
