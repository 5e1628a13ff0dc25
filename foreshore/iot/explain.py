"""Why a device may or may not do something: every statement of the policies in force, weighed.

Reads `iot.db`, whether or not an edge is running on it.
"""

from __future__ import annotations

from typing import NamedTuple

from foreshore.errors import UserError
from foreshore.iot.access import Context, certificate_context, describe_thing
from foreshore.iot.authority import der_of, read_certificate
from foreshore.iot.groups import ThingGroups
from foreshore.iot.indexing import FleetIndex
from foreshore.iot.policies import Decision, Policy, explain
from foreshore.iot.policy_resources import PolicyResources
from foreshore.iot.presence import Presence
from foreshore.iot.registry import Registry
from foreshore.iot.store import Ground, Tags

_RESOURCES = {
    "connect": ("iot:Connect", "client/"),
    "publish": ("iot:Publish", "topic/"),
    "retainpublish": ("iot:RetainPublish", "topic/"),
    "receive": ("iot:Receive", "topic/"),
    "subscribe": ("iot:Subscribe", "topicfilter/"),
    "getretainedmessage": ("iot:GetRetainedMessage", "topic/"),
    "getthingshadow": ("iot:GetThingShadow", "thing/"),
    "updatethingshadow": ("iot:UpdateThingShadow", "thing/"),
    "deletethingshadow": ("iot:DeleteThingShadow", "thing/"),
    "assumerolewithcertificate": ("iot:AssumeRoleWithCertificate", "rolealias/"),
}
"""Actions by the word a user types, with the beginning of their resources."""


class Explanation(NamedTuple):
    """The decision, a line for each statement, and the variables as they were."""

    action: str
    resource: str
    decision: Decision
    lines: list[str]
    context: Context


def question(action: str, resource: str) -> tuple[str, str]:
    """AWS's action name and the resource after `region:account:`. Raises UserError for an unknown action."""
    word = action.lower().removeprefix("iot:")
    found = _RESOURCES.get(word)
    if found is None:
        known = ", ".join(name.removeprefix("iot:") for name, _ in _RESOURCES.values())
        raise UserError(f"no action {action!r}", code="no-action", mend=f"one of {known}")
    name, prefix = found
    return name, resource if resource.startswith(("arn:", prefix)) else prefix + resource


def explain_policies(policies: list[Policy], action: str, arn: str, context: Context) -> Explanation:
    """Weigh given policies."""
    decision, lines = explain(policies, action, arn, context)
    return Explanation(action, arn, decision, lines, context)


def explain_thing(ground: Ground, thing: str, client_id: str | None, action: str, resource: str) -> Explanation:
    """Weigh the policies in force for a thing's certificate. Raises UserError when the thing has none.

    `client_id` is the MQTT client id, the thing's name when None.
    """
    tags = Tags(ground)
    registry, policies = Registry(ground, tags), PolicyResources(ground, tags)
    index = FleetIndex(ground, registry, lambda: Presence(lambda publication: None, lambda: 0))
    groups = index.groups = ThingGroups(ground, tags, registry, index.thing)
    policies.groups_of = groups.all_of
    if thing not in registry.things:
        raise UserError(f"no thing {thing!r}", code="no-thing", mend="create it, or name another")
    prefix = ground.arns.iot("cert/")
    certificates = ground.kind("certificate")
    principals = [arn for arn in registry.principals.of(thing) if arn.startswith(prefix)]
    active = [arn for arn in principals if (certificates.get(arn[len(prefix) :]) or {}).get("status") == "ACTIVE"]
    if not active:
        raise UserError(f"{thing} has no ACTIVE certificate", code="no-certificate", mend="attach or activate one")
    client_id = thing if client_id is None else client_id
    document = certificates.get(active[0][len(prefix) :])
    assert document is not None
    context = certificate_context(der_of(read_certificate(document["certificatePem"])))
    context["iot:clientid"] = client_id
    stands_for = registry.thing_of(active[0], client_id)
    describe_thing(context, stands_for)
    names = policies.in_force(active[0], stands_for["thingName"] if stands_for else None)
    arn = resource if resource.startswith("arn:") else ground.arns.iot(resource)
    return explain_policies([policies.parsed(name) for name in names], action, arn, context)
