"""What the checks of recipes are made of: findings with file, line and mend, and nodes of a document. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from foreshore.greengrass.documents import Document, Path

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One thing that is wrong, or works here and not there. `severity` error fails the check."""

    file: str
    line: int
    severity: Severity
    code: str
    message: str
    mend: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.severity}[{self.code}]: {self.message}\n  mend: {self.mend}"


@dataclass(frozen=True, slots=True)
class Node:
    """One value of a document, with the way to it. Keys are found in any case."""

    document: Document
    path: Path
    value: object

    @staticmethod
    def root(document: Document) -> Node:
        """The whole document."""
        return Node(document, (), document.value)

    @property
    def name(self) -> str:
        """The last key, as the user wrote it."""
        return str(self.path[-1]) if self.path else ""

    def get(self, key: str) -> Node | None:
        """The child of that key in any case; None when it is not there or null."""
        if isinstance(self.value, dict):
            for spelled, child in self.value.items():
                if spelled.lower() == key.lower() and child is not None:
                    return Node(self.document, (*self.path, spelled), child)
        return None

    def members(self) -> Iterator[Node]:
        """The children of a map, or the items of a list; nothing else has any."""
        if isinstance(self.value, dict):
            for key, child in self.value.items():
                yield Node(self.document, (*self.path, key), child)
        elif isinstance(self.value, list):
            for index, child in enumerate(self.value):
                yield Node(self.document, (*self.path, index), child)

    def texts(self) -> Iterator[Node]:
        """Every text at or below this node."""
        if isinstance(self.value, str):
            yield self
        for member in self.members():
            yield from member.texts()

    def error(self, code: str, message: str, mend: str) -> Finding:
        """A finding of severity error here."""
        return Finding(self.document.where, self.document.line(self.path), "error", code, message, mend)

    def warning(self, code: str, message: str, mend: str) -> Finding:
        """A finding of severity warning here."""
        return Finding(self.document.where, self.document.line(self.path), "warning", code, message, mend)


def closest(word: str, known: Iterable[str]) -> str:
    """` did you mean …?` for a misspelt word, or nothing."""
    by_lower = {each.lower(): each for each in known}
    found = difflib.get_close_matches(word.lower(), list(by_lower), 1, 0.7)
    return f" (did you mean {by_lower[found[0]]}?)" if found else ""
