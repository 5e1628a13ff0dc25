"""Deployment documents, the local delta, and what a change of a component asks for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from foreshore.errors import UserError
from foreshore.greengrass.deployments import Definition, local_roots, local_update, plan, read_document
from foreshore.greengrass.recipes import Step

DOCUMENT = """\
{"targetArn": "arn:aws:iot:us-east-1:000000000000:thinggroup/fleet", "deploymentName": "first",
 "components": {
   "app": {"componentVersion": "1.0.0", "configurationUpdate": {"merge": "{\\"a\\": 1}", "reset": ["/b"]},
           "runWith": {"posixUser": "me"}},
   "lib": {"componentVersion": "^2.0.0"}},
 "deploymentPolicies": {"failureHandlingPolicy": "DO_NOTHING",
   "componentUpdatePolicy": {"action": "SKIP_NOTIFY_COMPONENTS", "timeoutInSeconds": 5},
   "configurationValidationPolicy": {"timeoutInSeconds": 7}}}
"""


def test_a_create_deployment_document() -> None:
    document = read_document(DOCUMENT, "deployment.json")
    assert document.group == "thinggroup/fleet"
    assert document.components == {"app": "1.0.0", "lib": "^2.0.0"}
    assert (document.updates["app"].merge, document.updates["app"].reset) == ({"a": 1}, ("/b",))
    assert document.run_with == {"app": {"posixUser": "me"}}
    assert (document.failure_policy, document.notify_components) == ("DO_NOTHING", False)
    assert (document.update_timeout_s, document.validation_timeout_s) == (5, 7)


def test_members_without_effect_are_named() -> None:
    text = "{components: {}, tags: {a: b}, iotJobConfiguration: {timeoutConfig: {}}, deploymentId: x}"
    assert read_document(text, "deployment.yaml").without_effect == ("iotJobConfiguration", "deploymentId")


def test_defaults_of_the_policies() -> None:
    document = read_document("components: {}\n", "deployment.yaml")
    assert (document.failure_policy, document.notify_components) == ("ROLLBACK", True)
    assert (document.update_timeout_s, document.validation_timeout_s) == (60, 30)
    assert document.group == "LOCAL_DEPLOYMENT"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("- 1\n", 1),
        ("components: [a]\n", 1),
        ("components:\n  app: {}\n", 2),
        ("components:\n  app:\n    componentVersion: 1.0.0\n    configurationUpdate:\n      merge: '{'\n", 5),
        ("components:\n  app:\n    componentVersion: 1.0.0\n    configurationUpdate:\n      merge: '[]'\n", 5),
        ("components:\n  app:\n    componentVersion: 1.0.0\n    configurationUpdate:\n      reset: /a\n", 5),
        ("deploymentPolicies:\n  failureHandlingPolicy: RETRY\n", 2),
    ],
)
def test_bad_documents_name_the_line(text: str, line: int) -> None:
    with pytest.raises(UserError) as caught:
        read_document(text, "deployment.yaml")
    assert caught.value.where == f"deployment.yaml:{line}"


def test_local_delta() -> None:
    running = {"a": "1.0.0", "b": "1.0.0"}
    assert local_roots(running, {"a": "1.1.0", "c": "1.0.0"}, ["b", "x"]) == {"a": "1.1.0", "c": "1.0.0"}
    assert running == {"a": "1.0.0", "b": "1.0.0"}
    update = local_update({"MERGE": {"x": 1}, "RESET": ["/y"]})
    assert (update.merge, update.reset) == ({"x": 1}, ("/y",))
    assert local_update({"merge": {"x": 1}}).reset == ()
    for bad in ({"MERGES": {}}, {"MERGE": []}, {"RESET": "/a"}):
        with pytest.raises(UserError):
            local_update(bad)


STEPS = {"install": Step("pip install -r requirements.txt"), "run": Step("python main.py"), "bootstrap": Step("b")}
OLD = Definition("app", "1.0.0", STEPS, {}, {"main.py": "1", "requirements.txt": "1"})
CHANGES = [
    (OLD, "keep", False),
    (replace(OLD, version="1.0.1"), "reinstall", True),
    (replace(OLD, steps={**STEPS, "install": Step("other")}), "reinstall", False),
    (replace(OLD, steps={**STEPS, "run": Step("other")}), "restart", False),
    (replace(OLD, steps={**STEPS, "run": replace(STEPS["run"], setenv={"A": "1"})}), "restart", False),
    (replace(OLD, steps={**STEPS, "shutdown": Step("other")}), "keep", False),
    (replace(OLD, steps={**STEPS, "bootstrap": Step("other")}), "restart", True),
    (replace(OLD, stamps={"main.py": "2", "requirements.txt": "1"}), "restart", False),
    (replace(OLD, stamps={"main.py": "1", "requirements.txt": "2"}), "reinstall", False),
    (replace(OLD, stamps={"main.py": "1"}), "reinstall", False),
    (replace(OLD, dependencies={"lib": True}), "keep", False),
]


@pytest.mark.parametrize(("new", "verdict", "bootstrap"), CHANGES, ids=range(len(CHANGES)))
def test_what_a_change_asks_for(new: Definition, verdict: str, bootstrap: bool) -> None:
    work = plan({"app": OLD}, {"app": new}, ["app"])
    assert getattr(work, verdict) == ["app"]
    assert work.bootstrap == (["app"] if bootstrap else [])


def test_added_and_removed_components() -> None:
    work = plan({"old": OLD}, {"new": OLD}, ["new"])
    assert (work.add, work.remove, work.bootstrap) == (["new"], ["old"], ["new"])
    assert work.touched == ["new", "old"]
