"""Semantic versions and npm ranges: tables after semver.org and node-semver's own documentation."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshore.greengrass.versions import BadVersion, Range, Version, check_component_version

ORDERED = [
    "0.0.1", "0.1.0", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2",
    "1.0.0-beta.11", "1.0.0-rc.1", "1.0.0", "1.0.1", "1.10.0", "2.0.0",
]  # fmt: skip

MATCHES = [
    ("1.0.0", "1.0.0", True),
    ("1.0.0", "1.0.1", False),
    ("=1.0.0", "1.0.0", True),
    ("v1.0.0", "1.0.0", True),
    ("^1.1.0", "1.1.0", True),
    ("^1.1.0", "1.9.9", True),
    ("^1.1.0", "2.0.0", False),
    ("^1.1.0", "1.0.9", False),
    ("^0.2.3", "0.2.9", True),
    ("^0.2.3", "0.3.0", False),
    ("^0.0.3", "0.0.3", True),
    ("^0.0.3", "0.0.4", False),
    ("^0.0", "0.0.9", True),
    ("^0.0", "0.1.0", False),
    ("^0.x", "0.9.0", True),
    ("^0.x", "1.0.0", False),
    ("^1.x", "1.4.0", True),
    ("~1.2.3", "1.2.9", True),
    ("~1.2.3", "1.3.0", False),
    ("~1.2", "1.2.0", True),
    ("~1", "1.9.0", True),
    ("~1", "2.0.0", False),
    ("~>1.2.3", "1.2.4", True),
    ("1.x", "1.5.0", True),
    ("1.x", "2.0.0", False),
    ("1.2.x", "1.2.7", True),
    ("1.2.*", "1.3.0", False),
    ("1", "1.9.9", True),
    ("*", "9.9.9", True),
    ("", "9.9.9", True),
    (">=1.0.0 <2.0.0", "1.5.0", True),
    (">=1.0.0 <2.0.0", "2.0.0", False),
    (">= 1.0.0 < 2.0.0", "1.5.0", True),
    (">1.2", "1.2.9", False),
    (">1.2", "1.3.0", True),
    (">0.0.0", "0.0.1", True),
    ("<=1.2", "1.2.9", True),
    ("<=1.2", "1.3.0", False),
    ("<1.2", "1.1.9", True),
    ("1.0.0 - 1.4", "1.4.9", True),
    ("1.0.0 - 1.4.0", "1.4.1", False),
    ("^1.0.0 || ^3.0.0", "3.1.0", True),
    ("^1.0.0 || ^3.0.0", "2.1.0", False),
    ("<*", "1.0.0", False),
    ("^1.0.0", "1.1.0-beta", False),
    ("^1.0.0-alpha", "1.0.0-beta", True),
    ("^1.0.0-alpha", "1.1.0-beta", False),
    ("1.0.0-beta", "1.0.0-beta", True),
    ("*", "1.0.0-beta", False),
    ("1.0.0", "1.0.0+build.7", True),
    (">=", "1.0.0", True),
]


@pytest.mark.parametrize(("requirement", "version", "expected"), MATCHES)
def test_ranges(requirement: str, version: str, expected: bool) -> None:
    assert Range.parse(requirement).accepts(Version.parse(version)) is expected


def test_order() -> None:
    versions = [Version.parse(text) for text in ORDERED]
    assert sorted(versions, reverse=True) == versions[::-1]
    assert [str(version) for version in versions] == ORDERED


@pytest.mark.parametrize("text", ["", "1", "1.0", "1.0.0.0", "a.b.c", "1.0.0-", "1.0.0 beta", "-1.0.0"])
def test_bad_versions(text: str) -> None:
    with pytest.raises(BadVersion):
        Version.parse(text)


@pytest.mark.parametrize("text", ["latest", "^a", "1.0.0.0", "1.0.0 | 2.0.0", ">>1.0.0", "{1}", "1" * 5000])
def test_bad_ranges(text: str) -> None:
    with pytest.raises(BadVersion):
        Range.parse(text)


def test_component_limits() -> None:
    assert check_component_version("999999.0.0").core == (999999, 0, 0)
    with pytest.raises(BadVersion, match="6 digits"):
        check_component_version("1000000.0.0")
    with pytest.raises(BadVersion, match="64"):
        check_component_version("1.0.0-" + "a" * 60)


numbers = st.integers(0, 30)


@settings(max_examples=200, derandomize=True)
@given(numbers, numbers, numbers)
def test_a_caret_accepts_its_own_version_and_not_the_next_major(major: int, minor: int, patch: int) -> None:
    text = f"{major}.{minor}.{patch}"
    requirement = Range.parse(f"^{text}")
    assert requirement.accepts(Version.parse(text))
    assert not requirement.accepts(Version((major + 1, 0, 0)))


@settings(max_examples=300, derandomize=True)
@given(st.text("0123456789.x*^~<>=| -av", max_size=20))
def test_random_requirements_are_read_or_refused(text: str) -> None:
    try:
        Range.parse(text).accepts(Version((1, 0, 0)))
    except BadVersion:
        return
