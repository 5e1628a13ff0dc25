"""Component versions and version requirements: Semantic Versioning 2.0.0 and npm's range grammar.

Knows how to read, order and match versions; knows nothing of recipes. Sources: semver.org 2.0.0, node-semver "Range
Grammar", and the Greengrass developer guide ("Component versions": at most 64 characters, no number above 999999).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache, total_ordering

MAX_LENGTH = 64
MAX_NUMBER = 999_999

_VERSION = re.compile(
    r"^[v=\s]*(\d{1,16})\.(\d{1,16})\.(\d{1,16})(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?\s*$"
)
_PARTIAL = re.compile(
    r"^[v=\s]*(\d{1,16}|[xX*])(?:\.(\d{1,16}|[xX*])(?:\.(\d{1,16}|[xX*])"
    r"(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?)?)?$"
)
_COMPARATOR = re.compile(r"^(<=|>=|<|>|=|~>|~|\^)?(.*)$")
_HYPHEN = re.compile(r"^\s*(\S+)\s+-\s+(\S+)\s*$")
_SPACED_OPERATOR = re.compile(r"(<=|>=|<|>|=|~>|~|\^)\s+")

Core = tuple[int, int, int]


class BadVersion(ValueError):
    """The text is no semantic version, or no npm range."""


@total_ordering
@dataclass(frozen=True, slots=True)
class Version:
    """One semantic version. Build metadata takes no part in equality or order (semver.org, clause 10)."""

    core: Core
    prerelease: tuple[str, ...] = ()
    build: str = field(default="", compare=False)

    @staticmethod
    def parse(text: str) -> Version:
        """Read `1.2.3-rc.1+build`. Raises BadVersion."""
        match = _VERSION.match(text)
        if match is None:
            raise BadVersion(f"{text!r} is not a semantic version such as 1.0.0")
        core = (int(match[1]), int(match[2]), int(match[3]))
        return Version(core, tuple(match[4].split(".")) if match[4] else (), match[5] or "")

    def __str__(self) -> str:
        text = ".".join(map(str, self.core))
        if self.prerelease:
            text += "-" + ".".join(self.prerelease)
        return f"{text}+{self.build}" if self.build else text

    def __lt__(self, other: Version) -> bool:
        return self._key() < other._key()

    def _key(self) -> tuple[Core, bool, list[tuple[int, int, str]]]:
        # A release is above its pre-releases; numbers are below words (semver.org, clause 11).
        words = [(0, int(w), "") if w.isdigit() else (1, 0, w) for w in self.prerelease]
        return self.core, not self.prerelease, words


def check_component_version(text: str) -> Version:
    """Read a component's version under Greengrass's own limits. Raises BadVersion."""
    if len(text) > MAX_LENGTH:
        raise BadVersion(f"the version is {len(text)} characters long; Greengrass takes at most {MAX_LENGTH}")
    version = Version.parse(text)
    if max(version.core) > MAX_NUMBER:
        raise BadVersion(f"{text!r} has a number of more than 6 digits")
    return version


@dataclass(frozen=True, slots=True)
class Comparator:
    """One `>=1.2.3`: operator is one of `<`, `<=`, `>`, `>=`, `=`."""

    operator: str
    version: Version

    def accepts(self, version: Version) -> bool:
        """Whether the version stands in this relation."""
        if self.operator == "=":
            return version == self.version
        if self.operator == "<":
            return version < self.version
        if self.operator == "<=":
            return version <= self.version
        if self.operator == ">":
            return version > self.version
        return version >= self.version


@dataclass(frozen=True, slots=True)
class Range:
    """An npm range: any of `alternatives`, each of which is a list of comparators that must all hold."""

    text: str
    alternatives: tuple[tuple[Comparator, ...], ...]

    @staticmethod
    def parse(text: str) -> Range:
        """Read `^1.1.0`, `~1.2`, `1.x`, `>=1.0.0 <2.0.0`, `1.0.0 - 1.4`, `a || b` or `*`. Raises BadVersion."""
        return _parse_range(text)

    def accepts(self, version: Version) -> bool:
        """Whether the version satisfies the range.

        A pre-release satisfies only an alternative that names a pre-release of the same major.minor.patch
        (node-semver, "Prerelease Tags").
        """
        return any(_all_hold(alternative, version) for alternative in self.alternatives)

    def __str__(self) -> str:
        return self.text


def _all_hold(comparators: tuple[Comparator, ...], version: Version) -> bool:
    if not all(comparator.accepts(version) for comparator in comparators):
        return False
    if not version.prerelease:
        return True
    return any(c.version.prerelease and c.version.core == version.core for c in comparators)


@lru_cache(maxsize=1024)
def _parse_range(text: str) -> Range:
    alternatives = tuple(tuple(_alternative(part, text)) for part in text.split("||"))
    return Range(text, alternatives)


def _alternative(part: str, whole: str) -> list[Comparator]:
    hyphen = _HYPHEN.match(part)
    if hyphen is not None:
        return [*_at_least(hyphen[1], whole), *_at_most(hyphen[2], whole)]
    comparators: list[Comparator] = []
    for word in _SPACED_OPERATOR.sub(r"\1", part.strip()).split():
        comparators += _word(word, whole)
    return comparators


def _word(word: str, whole: str) -> list[Comparator]:
    match = _COMPARATOR.match(word)
    operator, rest = (match[1] or "", match[2]) if match else ("", word)
    if operator == "^":
        return _caret(rest, whole)
    if operator in ("~", "~>"):
        return _tilde(rest, whole)
    if operator == ">=":
        return _at_least(rest, whole)
    if operator == "<=":
        return _at_most(rest, whole)
    numbers, prerelease = _partial(rest, whole)
    if operator == "<":
        return [Comparator("<", Version(_fill(numbers), prerelease))] if numbers else [_nothing()]
    if operator == ">":
        if not numbers:
            return [_nothing()]
        if len(numbers) == 3:
            return [Comparator(">", Version(_fill(numbers), prerelease))]
        return [Comparator(">=", Version(_bump(numbers)))]
    if len(numbers) == 3:
        return [Comparator("=", Version(_fill(numbers), prerelease))]
    return _between(numbers, prerelease, _bump(numbers) if numbers else None)


def _caret(text: str, whole: str) -> list[Comparator]:
    """`^1.2.3`: changes that keep the left-most non-zero number (node-semver, "Caret Ranges")."""
    numbers, prerelease = _partial(text, whole)
    if not numbers:
        return []
    for index, number in enumerate(numbers):
        if number or index == len(numbers) - 1:
            return _between(numbers, prerelease, _bump(numbers[: index + 1]))
    return []


def _tilde(text: str, whole: str) -> list[Comparator]:
    """`~1.2.3`: patch changes, or minor ones when no minor is given (node-semver, "Tilde Ranges")."""
    numbers, prerelease = _partial(text, whole)
    return _between(numbers, prerelease, _bump(numbers[:2])) if numbers else []


def _at_least(text: str, whole: str) -> list[Comparator]:
    numbers, prerelease = _partial(text, whole)
    return [Comparator(">=", Version(_fill(numbers), prerelease))] if numbers else []


def _at_most(text: str, whole: str) -> list[Comparator]:
    numbers, prerelease = _partial(text, whole)
    if not numbers:
        return []
    if len(numbers) == 3:
        return [Comparator("<=", Version(_fill(numbers), prerelease))]
    return [Comparator("<", Version(_bump(numbers), ("0",)))]


def _between(numbers: list[int], prerelease: tuple[str, ...], below: Core | None) -> list[Comparator]:
    if below is None:
        return []
    return [Comparator(">=", Version(_fill(numbers), prerelease)), Comparator("<", Version(below, ("0",)))]


def _nothing() -> Comparator:
    return Comparator("<", Version((0, 0, 0), ("0",)))


def _fill(numbers: list[int]) -> Core:
    filled = [*numbers, 0, 0, 0]
    return filled[0], filled[1], filled[2]


def _bump(numbers: list[int]) -> Core:
    return _fill([*numbers[:-1], numbers[-1] + 1])


def _partial(text: str, whole: str) -> tuple[list[int], tuple[str, ...]]:
    """The numbers before the first `x`, and the pre-release."""
    if text == "":
        return [], ()
    match = _PARTIAL.match(text)
    if match is None:
        raise BadVersion(f"{whole!r} is not a version requirement such as ^1.0.0 or >=1.0.0 <2.0.0")
    numbers: list[int] = []
    for group in (match[1], match[2], match[3]):
        if group is None or group in "xX*":
            break
        numbers.append(int(group))
    return numbers, tuple(match[4].split(".")) if match[4] and len(numbers) == 3 else ()
