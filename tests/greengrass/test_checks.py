"""The recipe linter: one table of mistakes, each with the finding and the line it must give."""

from __future__ import annotations

import ast
import json
import textwrap
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshore.cli.check import command
from foreshore.greengrass import checks, portability_rules, recipe_rules
from foreshore.greengrass.checks import Source, check
from foreshore.greengrass.findings import Finding

GOOD = """\
RecipeFormatVersion: "2020-01-25"
ComponentName: com.example.App
ComponentVersion: "1.0.0"
ComponentConfiguration:
  DefaultConfiguration:
    rate: 1
    accessControl:
      aws.greengrass.ipc.pubsub:
        com.example.App:pubsub:1:
          operations: ["aws.greengrass#PublishToTopic"]
          resources: ["a/*"]
ComponentDependencies:
  aws.greengrass.Nucleus:
    VersionRequirement: ">=2.0.0 <3.0.0"
    DependencyType: SOFT
Manifests:
  - Platform:
      os: linux
      runtime: "*"
    Lifecycle:
      run:
        Script: python3 {artifacts:path}/main.py {configuration:/rate}
        Timeout: 20
    Artifacts:
      - URI: s3://BUCKET/com.example.App/1.0.0/main.py
"""

# (what to replace, by what, the code of the finding, its severity, a part of the line it must point at)
MISTAKES = [
    ('RecipeFormatVersion: "2020-01-25"\n', "", "missing-key", "error", "ComponentName"),
    ("2020-01-25", "2021-01-01", "format-version", "error", "RecipeFormatVersion"),
    ("com.example.App\n", "com example\n", "component-name", "error", "ComponentName"),
    ("com.example.App\n", "c" * 129 + "\n", "component-name", "error", "ComponentName"),
    ('"1.0.0"\nComponentC', '"1.0"\nComponentC', "component-version", "error", "ComponentVersion"),
    ('"1.0.0"\nComponentC', "1.0\nComponentC", "not-text", "error", "ComponentVersion"),
    ('"1.0.0"\nComponentC', '"1.0.9999999"\nComponentC', "component-version", "error", "ComponentVersion"),
    ("Manifests:", "Manifest:", "unknown-key", "error", "Manifest:"),
    ("ComponentName:", "componentName:", "lite-case", "warning", "componentName"),
    ("      run:\n", "      Run:\n", "lite-case", "warning", "Run"),
    ("        Script:", "        script:", "lite-case", "warning", "script:"),
    ("        Script: python3", "        Scrpt: python3", "missing-key", "error", "run:"),
    ("        Timeout: 20", "        Timeout: soon", "timeout", "error", "Timeout"),
    ("        Timeout: 20", "        Skipif: never", "skipif", "error", "Skipif"),
    ("        Timeout: 20", "        Skipif: onpath git", "lite-skipif", "warning", "Skipif"),
    ("        Timeout: 20", "        RequiresPrivilege: maybe", "privilege", "error", "RequiresPrivilege"),
    ("        Timeout: 20", "        Setenv: A=1", "not-a-map", "error", "Setenv"),
    ("        Timeout: 20\n", "      startup: echo\n", "startup-and-run", "error", "run:"),
    ("        Timeout: 20\n", "      recover: echo\n", "lite-step", "warning", "recover"),
    ("        Timeout: 20", "        Timeout: 20\n        timeout: 30", "duplicate-key", "error", "timeout: 30"),
    ("        Timeout: 20", "        Timeout:", "no-value", "error", "Timeout"),
    ("Manifests:\n", "ComponentPublisher:\nManifests:\n", "no-value", "error", "ComponentPublisher"),
    ("        Script: python3", "        Script: [python3]\n        Skipif: exists", "not-text", "error", "Script"),
    ("    Lifecycle:\n", "    Selections: [[a]]\n    Lifecycle:\n", "selections", "error", "Selections"),
    ('">=2.0.0 <3.0.0"', "2.0", "not-text", "error", "VersionRequirement"),
    ("        Timeout: 20\n", "      rum: echo\n", "unknown-step", "warning", "rum"),
    ("      os: linux", "      os: Linux", "os", "error", "os:"),
    ("      os: linux", "      os: 1", "not-text", "error", "os:"),
    ("      os: linux", "      OS: linux", "platform-case", "error", "OS:"),
    ("      os: linux", "      os: /linux|darwin/", "lite-regex", "warning", "os:"),
    ("      os: linux", "      os: /(/", "platform-regex", "error", "os:"),
    ("      os: linux", "      architecture: arm64", "architecture", "error", "architecture"),
    ("      os: linux", "      architecture: x86_64", "architecture", "error", "architecture"),
    ('      runtime: "*"\n', "", "lite-runtime", "warning", "Platform"),
    ("URI: s3://", "URI: file://", "artifact-uri", "error", "URI"),
    ("  - Platform:\n", "  - Name: 5\n    Platform:\n", "not-text", "error", "Name"),
    ("Manifests:\n", "ComponentSource: me\nManifests:\n", "component-source", "error", "ComponentSource"),
    (
        "        Script: python3 {artifacts:path}/main.py",
        "        Script: '{artifacts:path}/main.py'\n        #",
        "not-executable",
        "warning",
        "Script",
    ),
    ("      run:\n", "      install: [a]\n      run:\n", "step", "error", "install"),
    ("- URI:", "- Url:", "missing-key", "error", "Url"),
    ("1.0.0/main.py\n", "1.0.0/main.py\n        Unarchive: TAR\n", "unarchive", "error", "Unarchive"),
    ("1.0.0/main.py\n", "1.0.0/main.py\n        Permission: {Read: ME}\n", "permission", "error", "Permission"),
    ("1.0.0/main.py\n", "1.0.0/main.py\n        Digest: abc\n", "read-only", "warning", "Digest"),
    ("/main.py {", "/other.py {", "missing-artifact", "warning", "Script"),
    ("{artifacts:path}/main.py", "{artifacts:decompressedPath}/app/main.py", "missing-artifact", "warning", "Script"),
    ("{configuration:/rate}", "{configuration:/rat}", "variable", "warning", "Script"),
    ("{configuration:/rate}", "{artifact:path}", "variable", "warning", "Script"),
    ("{configuration:/rate}", "{artifacts:paths}", "variable", "warning", "Script"),
    ("{configuration:/rate}", "{com.Other:configuration:/x}", "variable", "warning", "Script"),
    ("{configuration:/rate}", "{aws.greengrass.Nucleus:configuration:/x}", "lite-variable", "warning", "Script"),
    (">=2.0.0 <3.0.0", "latest", "version-requirement", "error", "VersionRequirement"),
    ("DependencyType: SOFT", "DependencyType: WEAK", "dependency-type", "error", "DependencyType"),
    ("aws.greengrass.Nucleus:", "com.example.App:", "self-dependency", "error", "com.example.App:"),
    ("aws.greengrass.Nucleus:", "com.example.Other:", "unknown-dependency", "warning", "com.example.Other"),
    (
        "aws.greengrass.Nucleus:",
        "aws.greengrass.DockerApplicationManager:",
        "not-emulated",
        "warning",
        "DockerApplicationManager",
    ),
    ("aws.greengrass.ipc.pubsub:", "aws.greengrass.ipc.pubsb:", "policy-service", "warning", "pubsb"),
    ("aws.greengrass.ipc.pubsub:", "aws.greengrass.ShadowManager:", "lite-service", "warning", "ShadowManager"),
    ("aws.greengrass#PublishToTopic", "PublishToTopic", "policy-operation", "warning", "operations"),
    ('["aws.greengrass#PublishToTopic"]', "[]", "policy-operations", "error", "com.example.App:pubsub:1"),
    ('["a/*"]', "[]", "policy-resources", "warning", "com.example.App:pubsub:1"),
    ('["a/*"]', '["a?"]', "policy-resource", "warning", "resources"),
    ('["a/*"]', '["a${x}"]', "policy-resource", "warning", "resources"),
    ('["a/*"]', '["a/{iot:thingName}"]', "policy-variable", "warning", "resources"),
    ('["a/*"]', '["a/+/b"]', "policy-wildcard", "warning", "resources"),
    ("    rate: 1\n", "    rate: 1\n    rate: 2\n", "duplicate-key", "error", "rate: 2"),
    ("    rate: 1\n", "    rate: &a 1\n    more: *a\n", "bad-document", "error", ""),
    ("    rate: 1\n", "    rate: [1\n", "bad-document", "error", ""),
    ("    rate: 1\n", "    rate: " + "x" * 17000 + "\n", "recipe-size", "error", "RecipeFormatVersion"),
    (
        "Manifests:\n",
        "ComponentType: aws.greengrass.lambda\nManifests:\n",
        "lite-type",
        "warning",
        "ComponentType",
    ),
    ("Manifests:\n", "ComponentType: generic\nManifests:\n", "component-type", "error", "ComponentType"),
    ("Manifests:\n", "Lifecycle:\n  run: echo\nManifests:\n", "lite-global-lifecycle", "warning", "Lifecycle:"),
    ("Manifests:\n", "Lifecycle:\n  linux: {run: a}\nManifests:\n", "ignored-key", "warning", "linux"),
    ("Manifests:\n", "Manifests:\n  - Lifecycle: {}\n", "unreachable-manifest", "warning", "- Platform"),
]


def findings_of(text: str) -> list[Finding]:
    return check([Source("app.yaml", text)])


def test_a_good_recipe_has_no_finding() -> None:
    assert findings_of(GOOD) == []


@pytest.mark.parametrize(("old", "new", "code", "severity", "place"), MISTAKES, ids=[each[2] for each in MISTAKES])
def test_mistakes(old: str, new: str, code: str, severity: str, place: str) -> None:
    assert GOOD.count(old) == 1
    text = GOOD.replace(old, new)
    found = [each for each in findings_of(text) if each.code == code]
    assert found, [str(each) for each in findings_of(text)]
    assert found[0].severity == severity
    assert found[0].mend
    assert place in text.splitlines()[found[0].line - 1]


SHAPES = [
    ("Manifests: []\n", "no-manifest", 3),
    ("Manifests: {Platform: {os: linux}}\n", "not-a-list", 3),
    ("Manifests:\n  - Artifacts: {URI: s3://b/c}\n", "not-a-list", 4),
    ("Manifests:\n  - linux\n", "not-a-map", 4),
]


@pytest.mark.parametrize(("manifests", "code", "line"), SHAPES)
def test_manifests_of_another_shape(manifests: str, code: str, line: int) -> None:
    head = 'RecipeFormatVersion: "2020-01-25"\nComponentName: a\n'
    found = findings_of(head + manifests + 'ComponentVersion: "1.0.0"\n')
    assert (code, line) in [(each.code, each.line) for each in found], [str(each) for each in found]


EXECUTED = [
    ("{artifacts:path}/run.sh", "{}", True),
    ('"{artifacts:path}/run.sh" now', "{}", True),
    ("{artifacts:path}/run.sh", "{Permission: {Execute: OWNER}}", False),
    ("sh {artifacts:path}/run.sh", "{}", False),
    ("set -e\n{artifacts:path}/run.sh", "{Permission: {Read: ALL}}", True),
]


@pytest.mark.parametrize(("script", "more", "found"), EXECUTED)
def test_what_is_executed_must_be_executable(script: str, more: str, found: bool) -> None:
    recipe = yaml.safe_load(GOOD)
    recipe["Manifests"][0]["Lifecycle"]["run"]["Script"] = script
    recipe["Manifests"][0]["Artifacts"] = [{"URI": "s3://B/run.sh", **yaml.safe_load(more)}]
    codes = [each.code for each in findings_of(yaml.safe_dump(recipe, sort_keys=False))]
    assert ("not-executable" in codes) is found


def test_every_finding_has_a_test() -> None:
    """Each code that the rules give is in a table above or in a test of this file."""
    tested = Path(__file__).read_text()
    files = [Path(str(module.__file__)) for module in (recipe_rules, portability_rules, checks)]
    calls = [node for file in files for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    named = [each for each in calls if isinstance(each.func, ast.Attribute) and each.func.attr in ("error", "warning")]
    given = {each.args[0].value for each in named if isinstance(each.args[0], ast.Constant)}
    assert len(given) > 50
    assert {code for code in given if f'"{code}"' not in tested} == set()


def test_json_recipes_have_lines_too() -> None:
    text = json.dumps(yaml.safe_load(GOOD.replace("os: linux", "os: Linux")), indent=2)
    found = check([Source("app.json", text)])
    assert [each.code for each in found] == ["os"]
    assert "Linux" in text.splitlines()[found[0].line - 1]


def test_between_files() -> None:
    other = GOOD.replace("com.example.App\n", "com.example.Lib\n").replace("aws.greengrass.Nucleus", "com.example.App")
    codes = [each.code for each in check([Source("a.yaml", GOOD), Source("b.yaml", other)])]
    assert codes == ["unsatisfied-dependency"]
    loop = GOOD.replace("aws.greengrass.Nucleus", "com.example.Lib").replace(">=2.0.0 <3.0.0", "*")
    found = check([Source("a.yaml", loop), Source("b.yaml", other.replace(">=2.0.0 <3.0.0", "*"))])
    assert [each.code for each in found] == ["dependency-cycle"]
    twice = check([Source("a.yaml", GOOD), Source("b.yaml", GOOD)])
    assert [each.code for each in twice] == ["duplicate-component"]


def test_changed_defaults() -> None:
    newer = GOOD.replace('"1.0.0"\nComponentC', '"1.1.0"\nComponentC').replace("rate: 1", "rate: 2")
    newer = newer.replace('["a/*"]', '["b/*"]')
    found = check([Source("new.yaml", newer)], earlier=[Source("old.yaml", GOOD), Source("bad.yaml", "{")])
    assert [each.code for each in found] == ["changed-default"] * 2
    assert "/rate" in found[0].message
    assert "accessControl" in found[1].message


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("components:\n  com.example.App: {componentVersion: 1.0.0}\n", []),
        ("components:\n  com.example.App: {componentVersion: 2.0.0}\n", ["unsatisfied-version"]),
        ("components:\n  com.example.Ap: {componentVersion: 1.0.0}\n", ["unknown-component"]),
        ("components:\n  aws.greengrass.Nucleus: {componentVersion: 2.18.0}\n", []),
        ("components:\n  com.example.App: {}\n", ["bad-deployment"]),
        ("component:\n  com.example.App: {}\n", ["unknown-key"]),
        ("components:\n  com.example.App: {componentVersion: latest}\n", ["component-version"]),
        (
            "components:\n  com.example.App:\n    componentVersion: 1.0.0\n    configurationUpdate:\n"
            "      merge: {accessControl: {aws.x: {}}}\n      reset: [rate, /a/0]\n",
            ["json-pointer", "json-pointer", "merge-map", "policy-service"],
        ),
        (
            "components:\n  com.example.App:\n    componentVersion: 1.0.0\n    configurationUpdate: {merge: '{'}\n",
            ["bad-deployment"],
        ),
        ("deploymentPolicies: {failureHandlingPolicy: RETRY}\n", ["bad-deployment"]),
        ("deploymentPolicies: {failureHandling: ROLLBACK}\n", ["bad-deployment"]),
        ("deploymentPolicies: {componentUpdatePolicy: {action: SKIP}}\n", ["bad-deployment"]),
        ("deploymentPolicies: {componentUpdatePolicy: {timeoutInSeconds: soon}}\n", ["bad-deployment"]),
        ("components:\n  com.example.App: {componentVersion: 1.0.0, configUpdate: {}}\n", ["bad-deployment"]),
        ("- a\n", ["bad-deployment"]),
    ],
)
def test_deployment_documents(text: str, codes: list[str]) -> None:
    found = check([Source("app.yaml", GOOD)], Source("deployment.yaml", text))
    assert sorted(each.code for each in found) == codes


@pytest.mark.parametrize(
    ("name", "merge", "finding"),
    [
        ("Auth", {"deviceGroups": {"definitions": {"g": {"selectionRule": "a*", "policyName": "p"}},
                                   "policies": {"p": {}}}}, ("error", "selection-rule")),
        ("Auth", {"deviceGroups": {"definitions": {"g": {"selectionRule": "thingName: *", "policyName": "p"}}}},
         ("warning", "device-group")),
        ("Auth", {"certificateAuthority": {"privateKeyUri": "pkcs11:x", "certificateUri": "file:///c"}},
         ("warning", "not-emulated")),
        ("mqtt.Bridge", {"mqttTopicMapping": {"m": {"topic": "a", "source": "LocalMQTT", "target": "Pubsub"}}},
         ("error", "bridge")),
        ("mqtt.Bridge", {"mqttTopicMapping": {"m": {"topic": "a", "source": "LocalMqtt", "target": "Pubsub"}}}, None),
    ],
)  # fmt: skip
def test_what_awss_components_would_refuse(name: str, merge: object, finding: tuple[str, str] | None) -> None:
    update = {"componentVersion": "2.0.0", "configurationUpdate": {"merge": json.dumps(merge)}}
    text = json.dumps({"components": {f"aws.greengrass.clientdevices.{name}": update}}, indent=1)
    found = check([Source("app.yaml", GOOD)], Source("deployment.json", text))
    assert [(each.severity, each.code) for each in found] == ([finding] if finding else [])
    assert all('"merge"' in text.splitlines()[each.line - 1] for each in found)


def test_the_command(tmp_path: Path) -> None:
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "app.yaml").write_text(GOOD)
    run = CliRunner()
    assert run.invoke(command, [str(folder)]).exit_code == 0
    (folder / "app.yaml").write_text(GOOD.replace("      run:", "      Run:"))
    result = run.invoke(command, [], obj={"project": str(tmp_path)})
    assert result.exit_code == 0
    assert "warning[lite-case]" in result.output
    assert run.invoke(command, ["--strict", str(folder)]).exit_code == 2
    (folder / "app.yaml").write_text(GOOD.replace("os: linux", "os: Linux"))
    result = run.invoke(command, ["--json", str(folder)])
    assert result.exit_code == 2
    finding = json.loads(result.output.splitlines()[0])
    assert (finding["code"], finding["line"]) == ("os", 18)
    assert finding["file"].endswith("app.yaml")


def test_the_command_checks_templates_too(tmp_path: Path) -> None:
    (tmp_path / "cloud_functions").mkdir()
    template = tmp_path / "cloud_functions/template.yaml"
    template.write_text(
        "AWSTemplateFormatVersion: '2010-09-09'\nResources:\n  Queue:\n    Type: AWS::SQS::Queue\n"
        "    Properties:\n      VisibilityTimeot: 3\n"
    )
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/app.yaml").write_text(GOOD)
    result = CliRunner().invoke(command, [], obj={"project": str(tmp_path)})
    assert result.exit_code == 2
    assert f"{template}:6: error[E3002]" in result.output
    assert "2 files: 1 errors" in result.output
    template.write_text("Resources: [\n")
    assert CliRunner().invoke(command, [str(template)]).exit_code == 2


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["Manifests", "Lifecycle", "Platform", "run", "Script", "Artifacts", "URI", "accessControl"]
            )
            | st.text(max_size=6),
            children,
            max_size=4,
        )
    ),
    max_leaves=12,
)
KEYS = st.sampled_from(list(yaml.safe_load(GOOD)))


@settings(max_examples=150, derandomize=True, deadline=None)
@given(KEYS, VALUES)
def test_random_recipes_get_findings_never_a_crash(key: str, value: object) -> None:
    document = {**yaml.safe_load(GOOD), key: value}
    check([Source("app.json", json.dumps(document))])


@settings(max_examples=150, derandomize=True, deadline=None)
@given(st.text(alphabet=":-{}[]\"'&*!|>#\n\t aA0,", max_size=40))
def test_random_text_gets_findings_never_a_crash(text: str) -> None:
    check([Source("app.yaml", text)], Source("deployment.yaml", text))


def test_findings_read_like_compiler_messages() -> None:
    found = findings_of(GOOD.replace("architecture", "architecture").replace("os: linux", "architecture: arm64"))
    expected = """\
        app.yaml:18: error[architecture]: no device calls itself 'arm64': this manifest is never used
          mend: write aarch64"""
    assert str(found[0]) == textwrap.dedent(expected)


def test_mends_know_archives_and_templates() -> None:
    recipe = (
        "RecipeFormatVersion: '2020-01-25'\nComponentName: '{COMPONENT_NAME}'\n"
        "ComponentVersion: '{COMPONENT_VERSION}'\n"
        "Manifests:\n  - Lifecycle: {run: 'python3 {artifacts:path}/src/main.py'}\n"
        "    Artifacts: [{URI: 's3://B/app.zip', Unarchive: ZIP}]\n"
    )
    mends = {each.code: each.mend for each in check([Source("recipe.yaml", recipe)])}
    assert "gdk component build" in mends["component-name"]
    assert "gdk component build" in mends["component-version"]
    assert mends["missing-artifact"].startswith("write {artifacts:decompressedPath}/app/src if it is in that archive")
