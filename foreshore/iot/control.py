"""The `iot` API: every part's operations in one table on the generic service layer, and what several parts decide.

Source: AWS IoT API reference. An operation that no part has answers NotEmulated.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from foreshore.errors import AwsError
from foreshore.iot.access import Context, certificate_context, describe_thing
from foreshore.iot.authority import der_of, read_certificate
from foreshore.iot.certificates import Certificates
from foreshore.iot.policies import Policy, decide
from foreshore.iot.policy_resources import PolicyResources
from foreshore.iot.registry import Registry
from foreshore.iot.store import Arns, Document
from foreshore.shapes.service_model import CallContext, OperationHandler, Service, ServiceModel

Params = dict[str, Any]
_ACTIONS = {"PUBLISH": "iot:Publish", "SUBSCRIBE": "iot:Subscribe", "RECEIVE": "iot:Receive", "CONNECT": "iot:Connect"}

_STRICTEST = ("EXPLICIT_DENY", "IMPLICIT_DENY", "ALLOWED")


class Part(Protocol):
    """A part of the control plane."""

    def operations(self) -> dict[str, OperationHandler]: ...


def service_of(name: str, parts: Iterable[Part]) -> Service:
    """Join parts into one service of botocore's model `name`."""
    table: dict[str, OperationHandler] = {}
    for part in parts:
        table |= part.operations()
    return Service(ServiceModel.load(name), table)


class Authorization:
    """TestAuthorization and GetEffectivePolicies: what policies say, asked from outside."""

    def __init__(self, certificates: Certificates, policies: PolicyResources, registry: Registry, arns: Arns) -> None:
        self._certificates = certificates
        self._policies = policies
        self._registry = registry
        self._arns = arns

    def operations(self) -> dict[str, OperationHandler]:
        """AWS's operations by name."""
        return {"TestAuthorization": self.test, "GetEffectivePolicies": self.effective}

    def effective(self, params: Params, context: CallContext) -> Document:
        """GetEffectivePolicies of a principal, a thing, or both."""
        thing = params.get("thingName")
        if thing is not None:
            self._registry.find(thing)
        names = self._policies.in_force(params.get("principal"), thing)
        shown = [
            {"policyName": name, "policyArn": self._policies.arn(name), "policyDocument": self._policies.text(name)}
            for name in names
        ]
        return {"effectivePolicies": shown}

    def policies_of(self, principal: str | None, client_id: str | None, params: Params) -> tuple[list[Policy], Context]:
        """The policies to ask and the context to ask them in. Raises AwsError."""
        context: Context = {}
        thing = self._registry.thing_of(principal, client_id) if principal else None
        if client_id:
            context["iot:clientid"] = client_id
        prefix = self._arns.iot("cert/")
        if principal and principal.startswith(prefix):
            document = self._certificates.find(principal[len(prefix) :])
            context |= certificate_context(der_of(read_certificate(document["certificatePem"])))
        describe_thing(context, thing)
        names = self._policies.in_force(principal, thing["thingName"] if thing else None)
        skipped = params.get("policyNamesToSkip", [])
        names = [name for name in [*names, *params.get("policyNamesToAdd", [])] if name not in skipped]
        return [self._policies.parsed(name) for name in dict.fromkeys(names)], context

    def test(self, params: Params, context: CallContext) -> Document:
        """TestAuthorization. Resources are ARNs or what follows the account in one (`topic/a/b`)."""
        client_id = params.get("clientId")
        policies, variables = self.policies_of(params.get("principal"), client_id, params)
        return {"authResults": [self._test_one(info, policies, variables) for info in params["authInfos"]]}

    def _test_one(self, info: Document, policies: list[Policy], variables: Context) -> Document:
        """One answer for an authInfo: it is allowed when all its resources are."""
        action = _ACTIONS.get(info.get("actionType", ""))
        if action is None or not info["resources"]:
            raise AwsError("InvalidRequestException", "actionType and resources are required", 400)
        arns = [each if each.startswith("arn:") else self._arns.iot(each) for each in info["resources"]]
        decisions = [decide(policies, action, arn, variables) for arn in arns]
        decision = min(decisions, key=lambda each: _STRICTEST.index(each.outcome))
        by = {each.statement.policy for each in decisions if each.statement and each.outcome == decision.outcome}
        named = [self._named(name) for name in sorted(by)]
        everything = [self._named(policy.name) for policy in policies]
        return {
            "authInfo": info,
            "authDecision": decision.outcome,
            "missingContextValues": sorted({name for each in decisions for name in each.unresolved}),
            "allowed": {"policies": named if decision.allowed else []},
            "denied": {
                "implicitDeny": {"policies": everything if decision.outcome == "IMPLICIT_DENY" else []},
                "explicitDeny": {"policies": named if decision.outcome == "EXPLICIT_DENY" else []},
            },
        }

    def _named(self, name: str) -> Document:
        return {"policyName": name, "policyArn": self._policies.arn(name)}
