"""What is wrong with a statement or a template, said with its line, its column, a caret and a way to mend it."""

from __future__ import annotations

from foreshore.errors import UserError


class SqlParseError(UserError):
    """The SQL (or a substitution template) can't be compiled. Lines and columns count from 1.

    Over the API it becomes AWS's `SqlParseException` with `message`, the first line only.
    """

    def __init__(self, what: str, text: str, position: int, suggestion: str = "") -> None:
        position = min(max(position, 0), len(text))
        self.message = what
        self.text = text
        self.position = position
        self.line = text.count("\n", 0, position) + 1
        start = text.rfind("\n", 0, position) + 1
        self.column = position - start + 1
        end = text.find("\n", position)
        source = text[start : end if end >= 0 else len(text)]
        lead = "".join("\t" if character == "\t" else " " for character in source[: self.column - 1])
        left = max(0, self.column - 100)
        self.caret = f"{source[left : left + 160]}\n{lead[left:]}^"
        self.suggestion = suggestion
        shown = f"{what}\n" + "\n".join(f"    {line}" for line in self.caret.split("\n"))
        super().__init__(shown, code="sql-parse", where=f"line {self.line}, column {self.column}", mend=suggestion)
