"""Recipes as values: both casings, YAML and JSON, platform selection, variables, selections, steps."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshore.errors import UserError
from foreshore.greengrass.documents import read
from foreshore.greengrass.recipes import (
    Manifest,
    Recipe,
    Variables,
    interpolate,
    lifecycle_for,
    parse,
    pointed_text,
    select_manifest,
    steps_of,
    variables_in,
)
from foreshore.greengrass.versions import Version

YAML = """\
RecipeFormatVersion: '2020-01-25'
ComponentName: com.example.App
ComponentVersion: 1.0.0
ComponentDescription: On and off
ComponentPublisher: Me
ComponentConfiguration:
  DefaultConfiguration:
    Switch: on
    Count: 010
ComponentDependencies:
  com.example.Lib: {VersionRequirement: ^1.0.0, DependencyType: SOFT}
  aws.greengrass.Nucleus: {VersionRequirement: ~2.1.0}
Manifests:
  - Name: linux
    Platform: {os: linux, architecture: amd64}
    Lifecycle: {Run: echo}
    Artifacts:
      - {URI: s3://B/a.zip, Unarchive: zip, Permission: {Execute: all}}
  - {}
"""

CAMEL = {
    "recipeFormatVersion": "2020-01-25",
    "componentName": "com.example.App",
    "componentVersion": "1.0.0",
    "componentDescription": "On and off",
    "componentPublisher": "Me",
    "componentConfiguration": {"defaultConfiguration": {"Switch": "on", "Count": 10}},
    "componentDependencies": {
        "com.example.Lib": {"versionRequirement": "^1.0.0", "dependencyType": "soft"},
        "aws.greengrass.Nucleus": {"versionRequirement": "~2.1.0", "dependencyType": "HARD"},
    },
    "manifests": [
        {
            "name": "linux",
            "platform": {"os": "linux", "architecture": "amd64"},
            "lifecycle": {"Run": "echo"},
            "artifacts": [{"uri": "s3://B/a.zip", "unarchive": "ZIP", "permission": {"execute": "ALL"}}],
        },
        {},
    ],
}


@pytest.mark.parametrize(
    ("text", "where"), [(YAML, "app.yaml"), (json.dumps(CAMEL), "app.json"), (json.dumps(CAMEL), "a")]
)
def test_both_forms_and_casings_are_one_recipe(text: str, where: str) -> None:
    recipe = parse(text, where)
    assert (recipe.name, str(recipe.version), recipe.publisher) == ("com.example.App", "1.0.0", "Me")
    assert recipe.default_configuration == {"Switch": "on", "Count": 10}
    assert {name: wish.hard for name, wish in recipe.dependencies.items()} == {
        "com.example.Lib": False,
        "aws.greengrass.Nucleus": True,
    }
    artifact = recipe.manifests[0].artifacts[0]
    assert (artifact.file_name, artifact.unarchive, artifact.read, artifact.execute) == ("a.zip", "ZIP", "OWNER", "ALL")


BAD = [
    ("[]", "the recipe must be a map", 1),
    ("", "has no", 1),
    (YAML.replace("2020-01-25", "2021"), "RecipeFormatVersion", 1),
    (YAML.replace("com.example.App", "a b"), "no component name", 2),
    (YAML.replace("1.0.0\nComponentD", "1.0\nComponentD"), "semantic version", 3),
    (YAML.replace("~2.1.0", "latest"), "version requirement", 12),
    (YAML.replace("SOFT", "WEAK"), "no dependency type", 11),
    (YAML.replace("Unarchive: zip", "Unarchive: rar"), "no way to unarchive", 18),
    (YAML.partition("Manifests:")[0] + "Manifests: {Name: linux}\n", "Manifests must be a list", 13),
    (YAML.partition("Manifests:")[0] + "Manifests:\n  -\n", "Manifests contains one or more null element(s)", 13),
    (YAML.replace("URI:", "Url:"), "has no Manifests.0.Artifacts.0.URI", 18),
    (YAML.replace("Me\n", "*me\n"), "", 5),
    (YAML + "\tx: 1", "", 20),
]


@pytest.mark.parametrize(("text", "what", "line"), BAD, ids=range(len(BAD)))
def test_bad_recipes_name_file_line_and_mend(text: str, what: str, line: int) -> None:
    with pytest.raises(UserError) as caught:
        parse(text, "app.yaml")
    assert what in caught.value.what
    assert caught.value.where == f"app.yaml:{line}"
    assert caught.value.mend


LINUX = {"os": "linux", "architecture": "amd64"}
PLATFORMS = [
    ({}, LINUX, True),
    ({"os": "linux"}, LINUX, True),
    ({"os": "darwin"}, LINUX, False),
    ({"os": "*"}, LINUX, True),
    ({"os": "all"}, LINUX, True),
    ({"os": "any"}, LINUX, True),
    ({"os": "/darwin|linux/"}, LINUX, True),
    ({"os": "/lin/"}, LINUX, False),
    ({"os": "/(/"}, LINUX, False),
    ({"os": "linux", "architecture": "aarch64"}, LINUX, False),
    ({"os": "linux", "runtime": "*"}, LINUX, True),
    ({"os": "linux", "runtime": "aws_nucleus_lite"}, LINUX, False),
    ({"os": "linux", "runtime": "aws_nucleus_lite"}, {**LINUX, "runtime": "aws_nucleus_lite"}, True),
    ({"custom": "red"}, {**LINUX, "custom": "red"}, True),
    ({"custom": "all"}, {**LINUX, "custom": "red"}, False),
    ({"os": "!linux"}, {"os": "!linux"}, False),
]


@pytest.mark.parametrize(("wanted", "platform", "expected"), PLATFORMS, ids=range(len(PLATFORMS)))
def test_platforms(wanted: Mapping[str, str], platform: Mapping[str, str], expected: bool) -> None:
    recipe = Recipe("a", Version((1, 0, 0)), manifests=(Manifest(platform=wanted),))
    assert (select_manifest(recipe, platform) is not None) is expected


def test_the_first_manifest_that_fits_wins() -> None:
    recipe = parse(YAML, "app.yaml")
    assert select_manifest(recipe, LINUX) is recipe.manifests[0]
    assert select_manifest(recipe, {"os": "darwin"}) is recipe.manifests[1]


def test_global_lifecycle_by_selection() -> None:
    lifecycle = {
        "linux": {"install": "l-install", "run": {"script": "l-run"}},
        "all": {"run": {"slow": "all-slow", "all": "all-run"}},
    }
    manifests = (
        Manifest(selections=("linux",)),
        Manifest(selections=("slow",)),
        Manifest(),
        Manifest(lifecycle={"run": "own"}),
    )
    recipe = Recipe("a", Version((1, 0, 0)), manifests=manifests, lifecycle=lifecycle)
    found = [lifecycle_for(recipe, manifest) for manifest in manifests]
    assert found == [lifecycle["linux"], {"run": "all-slow"}, {"run": "all-run"}, {"run": "own"}]


CONFIGURATION: dict[str, object] = {
    "text": "hi", "int": 3, "float": 1.5, "yes": True, "null": None, "map": {"b": [1, {"c": 2}], "a": "x"}, "a/b": "~",
}  # fmt: skip
POINTERS = [
    ("/text", "hi"),
    ("/int", "3"),
    ("/float", "1.5"),
    ("/yes", "true"),
    ("/null", "null"),
    ("/map", '{"a":"x","b":[1,{"c":2}]}'),
    ("/map/b/1/c", "2"),
    ("/map/b/7", None),
    ("/a~1b", "~"),
    ("/none", None),
    ("text", None),
]


@pytest.mark.parametrize(("pointer", "text"), POINTERS)
def test_pointers(pointer: str, text: str | None) -> None:
    assert pointed_text(CONFIGURATION, pointer) == text


def variables() -> Variables:
    def configuration(name: str) -> Mapping[str, object] | None:
        return {"app": CONFIGURATION, "lib": {"x": "from lib"}, "far": {"x": 1}}.get(name)

    def system(component: str, namespace: str, key: str) -> str | None:
        return f"/{component}/{key}" if (namespace, key) == ("artifacts", "path") else None

    return Variables("app", frozenset({"lib"}), configuration, system)


TEXTS = [
    ("{configuration:/text}", "hi"),
    ("a {configuration:/text}{configuration:/int} b", "a hi3 b"),
    ("{configuration:/none}", "{configuration:/none}"),
    ("{artifacts:path}/m.py", "/app/path/m.py"),
    ("{artifacts:other}", "{artifacts:other}"),
    ("{unknown:thing}", "{unknown:thing}"),
    ("{lib:configuration:/x} {lib:artifacts:path}", "from lib /lib/path"),
    ("{far:configuration:/x}", "{far:configuration:/x}"),
    ("${HOME} {a} {:b} {{configuration:/int}}", "${HOME} {a} {:b} {3}"),
]


@pytest.mark.parametrize(("text", "expected"), TEXTS)
def test_variables(text: str, expected: str) -> None:
    assert interpolate(text, variables()) == expected
    nested = interpolate({"a": [text, 1, None]}, variables())
    assert nested == {"a": [expected, 1, None]}


def test_variables_without_configuration_and_their_names() -> None:
    text = "{configuration:/text} {artifacts:path} {lib:work:path}"
    assert interpolate(text, variables(), configuration=False).startswith("{configuration:/text} /app/path")  # type: ignore[attr-defined]
    assert list(variables_in(text)) == [
        ("", "configuration", "/text"),
        ("", "artifacts", "path"),
        ("lib", "work", "path"),
    ]


def test_steps() -> None:
    steps = steps_of(
        {
            "SetEnv": {"A": 1, "B": True},
            "INSTALL": "apt",
            "Run": {
                "script": "go",
                "Timeout": "30",
                "requiresPrivilege": "true",
                "skipif": " onpath x ",
                "setenv": {"A": "2"},
            },
            "Other": "ignored",
            "startup": "",
        }
    )
    assert set(steps) == {"install", "run"}
    assert dict(steps["install"].setenv) == {"A": "1", "B": "true"}
    run = steps["run"]
    assert (run.script, run.timeout_s, run.requires_privilege, run.skip_if) == ("go", 30, True, "onpath x")
    assert dict(run.setenv) == {"A": "2", "B": "true"}
    assert (steps["install"].label, run.label) == ("INSTALL", "Run.script")


@pytest.mark.parametrize(
    "body", [{"Timeout": 1}, {"Script": "x", "Timeout": "soon"}, {"Script": "x", "Timeout": -1}, {"Script": {}}]
)
def test_bad_steps(body: dict[str, object]) -> None:
    with pytest.raises(UserError):
        steps_of({"run": body}, "app.yaml")


SCALARS = [
    ("true", True), ("False", False), ("yes", "yes"), ("on", "on"), ("null", None), ("~", None), ("", None), ("12", 12),
    ("-3", -3), ("0x1f", 31), ("1.5", 1.5), ("1e3", 1000.0), ("'12'", "12"), ("2020-01-25", "2020-01-25"),
    ("1.0.0", "1.0.0"), ("1_000", "1_000"), ("12:30", "12:30"), (".inf", ".inf"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "value"), SCALARS)
def test_scalars_are_what_the_device_reads(text: str, value: object) -> None:
    assert read(f"a: {text}\n", "a.yaml").value == {"a": value}


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.text(alphabet="{}[]:,-'\"\n ab1&*#|>!%@`\t\\", max_size=60))
def test_random_text_is_read_or_refused(text: str) -> None:
    for where in ("a.yaml", "a.json"):
        try:
            parse(text, where)
        except UserError as error:
            assert error.where.startswith(where)


@pytest.mark.parametrize("text", ["[" * 5000, "{" * 5000, "a: " * 900, '{"a":' * 3000, "- " * 3000, "x" * 1_000_001])
def test_deep_and_large_documents_are_refused(text: str) -> None:
    for where in ("a.yaml", "a.json"):
        with pytest.raises(UserError):
            parse(text, where)
