"""Dependency resolution: what is chosen, what is refused and how it is said, and the order of starting."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshore.errors import NotEmulated, UserError
from foreshore.greengrass.recipes import Dependency
from foreshore.greengrass.resolution import resolve, start_order
from foreshore.greengrass.versions import Range, Version

Wishes = dict[str, dict[str, dict[str, str]]]


def choose(roots: dict[str, str], recipes: Wishes, provided: dict[str, str] | None = None) -> dict[str, str]:
    """`recipes` is {component: {version: {dependency: range}}}."""
    available = {
        name: {
            Version.parse(version): {other: Dependency(Range.parse(text)) for other, text in wishes.items()}
            for version, wishes in versions.items()
        }
        for name, versions in recipes.items()
    }
    own = {name: Version.parse(version) for name, version in (provided or {}).items()}
    asked = {name: {"LOCAL_DEPLOYMENT": Range.parse(text)} for name, text in roots.items()}
    return {name: str(version) for name, version in resolve(asked, available, own).versions.items()}


GOOD: list[tuple[dict[str, str], Wishes, dict[str, str]]] = [
    ({"a": "1.0.0"}, {"a": {"1.0.0": {}}}, {"a": "1.0.0"}),
    ({"a": "*"}, {"a": {"1.0.0": {}, "1.2.0": {}, "1.10.0": {}}}, {"a": "1.10.0"}),
    ({"a": "1.0.0"}, {"a": {"1.0.0": {"b": "^1.0.0"}}, "b": {"1.4.0": {}, "2.0.0": {}}}, {"a": "1.0.0", "b": "1.4.0"}),
    (
        {"a": "1.0.0", "c": "1.0.0"},
        {
            "a": {"1.0.0": {"b": "*"}},
            "b": {"1.0.0": {}, "2.0.0": {"x": "*"}},
            "c": {"1.0.0": {"b": "<2"}},
            "x": {"1.0.0": {}},
        },
        {"a": "1.0.0", "b": "1.0.0", "c": "1.0.0"},
    ),
    ({"a": "1.0.0"}, {"a": {"1.0.0": {"aws.greengrass.Nucleus": ">=9.0.0"}}}, {"a": "1.0.0"}),
]


@pytest.mark.parametrize(("roots", "recipes", "expected"), GOOD, ids=range(len(GOOD)))
def test_choices(roots: dict[str, str], recipes: Wishes, expected: dict[str, str]) -> None:
    assert choose(roots, recipes, {"aws.greengrass.Nucleus": "2.18.0"}) == expected


BAD: list[tuple[dict[str, str], Wishes, str, list[str]]] = [
    ({"a": "1.0.0"}, {}, "component-not-found", ["a", "LOCAL_DEPLOYMENT asks 1.0.0"]),
    ({"a": "2.0.0"}, {"a": {"1.0.0": {}}}, "dependency-conflict", ["LOCAL_DEPLOYMENT asks 2.0.0", "at hand: 1.0.0"]),
    (
        {"a": "1.0.0", "b": "1.0.0"},
        {"a": {"1.0.0": {"c": "^1.0.0"}}, "b": {"1.0.0": {"c": "^2.0.0"}}, "c": {"1.0.0": {}, "2.0.0": {}}},
        "dependency-conflict",
        ["a asks ^1.0.0", "b asks ^2.0.0", "at hand: 2.0.0, 1.0.0"],
    ),
    ({"a": "*"}, {"a": {"1.0.0": {"b": "*"}}, "b": {"1.0.0": {"a": "*"}}}, "dependency-cycle", ["a -> b -> a"]),
]


@pytest.mark.parametrize(("roots", "recipes", "code", "words"), BAD, ids=[each[2] for each in BAD])
def test_conflicts_name_all_parties(roots: dict[str, str], recipes: Wishes, code: str, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        choose(roots, recipes)
    assert caught.value.code == code
    assert all(word in caught.value.what for word in words), caught.value.what


def test_other_components_of_aws_are_not_emulated() -> None:
    with pytest.raises(NotEmulated, match="LambdaManager"):
        choose({"aws.greengrass.LambdaManager": "*"}, {})


def test_an_emulated_component_of_another_version_is_noted() -> None:
    roots = {"aws.greengrass.Nucleus": {"app": Range.parse("^3.0.0")}}
    notes = resolve(roots, {}, {"aws.greengrass.Nucleus": Version((2, 18, 0))}).notes
    assert notes == ["app asks aws.greengrass.Nucleus ^3.0.0; Foreshore emulates 2.18.0"]


def test_start_order() -> None:
    assert start_order({"app": {"lib", "base"}, "lib": {"base"}, "base": set()}) == ["base", "lib", "app"]
    assert start_order({"b": (), "a": ("elsewhere",)}) == ["a", "b"]


names = st.sampled_from("abcdef")
ranges = st.sampled_from(["*", "^1.0.0", "<2", ">=2.0.0", "1.x || 2.x"])


versions = st.sampled_from(["1.0.0", "1.1.0", "2.0.0"])
recipes_of = st.dictionaries(versions, st.dictionaries(names, ranges, max_size=3), min_size=1)


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.dictionaries(names, recipes_of), st.dictionaries(names, ranges, min_size=1, max_size=3))
def test_random_graphs_are_solved_rightly_or_refused(recipes: Wishes, roots: dict[str, str]) -> None:
    try:
        chosen = choose(roots, recipes)
    except UserError:
        return
    assert roots.keys() <= chosen.keys()
    for name, text in roots.items():
        assert Range.parse(text).accepts(Version.parse(chosen[name]))
    for name, version in chosen.items():
        for other, text in recipes[name][version].items():
            assert Range.parse(text).accepts(Version.parse(chosen[other]))
