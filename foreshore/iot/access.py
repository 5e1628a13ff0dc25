"""Who may do what at the broker and over HTTPS: certificates, IoT policies and custom authorizers joined.

An `Identity` holds what a connection's policy variables resolve to and the decisions made for it. Decisions are kept
until policies, certificates or attachments change (`invalidate`), at once for all. It implements
`foreshore.iot.mqtt.access.Access`.

Sources: AWS IoT developer guide, "AWS IoT Core policy actions", "Certificate policy variables", "Thing policy
variables", "Custom authentication and authorization"; quotas for the custom authorizer's limits.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509
from cryptography.x509.oid import ExtensionOID, NameOID, ObjectIdentifier

from foreshore.errors import AwsError
from foreshore.iot.certificates import Certificates
from foreshore.iot.mqtt.access import NOT_AUTHORIZED, ConnectDecision, ConnectRequest
from foreshore.iot.policies import Decision, Policy, decide
from foreshore.iot.policy_resources import PolicyResources
from foreshore.iot.registry import Registry
from foreshore.iot.store import Arns, Document

MAX_CERTIFICATES = 20_000
"""Certificates whose policy variables are kept parsed."""

MAX_DECISIONS = 4096
"""Decisions kept for one connection before they are forgotten and made anew."""

_SUBJECT_NAMES: tuple[tuple[str, ObjectIdentifier], ...] = (
    ("DistinguishedNameQualifier", NameOID.DN_QUALIFIER),
    ("Country", NameOID.COUNTRY_NAME),
    ("Organization", NameOID.ORGANIZATION_NAME),
    ("OrganizationalUnit", NameOID.ORGANIZATIONAL_UNIT_NAME),
    ("State", NameOID.STATE_OR_PROVINCE_NAME),
    ("CommonName", NameOID.COMMON_NAME),
    ("SerialNumber", NameOID.SERIAL_NUMBER),
    ("Title", NameOID.TITLE),
    ("Surname", NameOID.SURNAME),
    ("GivenName", NameOID.GIVEN_NAME),
    ("Initials", NameOID.INITIALS),
    ("Pseudonym", NameOID.PSEUDONYM),
    ("GenerationQualifier", NameOID.GENERATION_QUALIFIER),
)

Context = dict[str, str | Sequence[str]]


@dataclass(slots=True, eq=False)
class Identity:
    """One connection's (or HTTPS request's) principal.

    `policies` is None for a principal whose policies come from the registry; a custom authorizer brings its own.
    `context` has the variables of this connection; those of the `certificate` and its thing are added when a policy
    asks for any.
    """

    principal: str
    principal_arn: str | None
    client_id: str | None
    context: Context
    wants_trace: bool = False
    certificate: Context | None = None
    policies: tuple[Policy, ...] | None = None
    thing: str | None = None
    exclusive_thing: str | None = None
    generation: int = -1
    in_force: tuple[Policy, ...] = ()
    decisions: dict[tuple[str, str], bool] | None = None


@dataclass(slots=True, eq=False)
class Standing:
    """What a certificate may do, alone or for a thing: the same for each of its connections until something changes.

    `context` holds the thing policy variables. `decisions` are shared where `is_shared`: where no policy has a
    variable or a condition, so that action and resource alone decide.
    """

    thing: str | None
    exclusive_thing: str | None
    in_force: tuple[Policy, ...]
    context: Context
    is_shared: bool
    wants_trace: bool
    decisions: dict[tuple[str, str], bool] = field(default_factory=dict)


def certificate_context(der: bytes) -> Context:
    """The certificate policy variables: subject, issuer, alternative names and serial number."""
    certificate = x509.load_der_x509_certificate(der)
    context: Context = {"iot:certificate.serialnumber": str(certificate.serial_number)}
    for part, name in (("subject", certificate.subject), ("issuer", certificate.issuer)):
        for label, oid in _SUBJECT_NAMES:
            values = [str(attribute.value) for attribute in name.get_attributes_for_oid(oid)]
            _several(context, f"iot:certificate.{part}.{label.lower()}", values)
    try:
        names = certificate.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME).value
    except x509.ExtensionNotFound:
        names = None
    if isinstance(names, x509.SubjectAlternativeName):
        kinds: tuple[tuple[str, Any], ...] = (
            ("rfc822name", x509.RFC822Name),
            ("dnsname", x509.DNSName),
            ("uniformresourceidentifier", x509.UniformResourceIdentifier),
            ("ipaddress", x509.IPAddress),
        )
        for label, kind in kinds:
            values = [str(value) for value in names.get_values_for_type(kind)]
            _several(context, f"iot:certificate.subject.alternativename.{label}", values)
    context["iot:certificate.availablekeys"] = sorted(key.removeprefix("iot:certificate.") for key in context)
    return context


def _several(context: Context, key: str, values: list[str]) -> None:
    """The first value under the bare key, the n-th under `.n-1`, all of them under `.list`."""
    for index, value in enumerate(values):
        context[key if index == 0 else f"{key}.{index}"] = value
    if values:
        context[f"{key}.list"] = values


Authorize = Callable[[ConnectRequest], Awaitable["ConnectDecision"] | None]


class PolicyAccess:
    """Access by IoT policies. `authorize` (custom authorizers) is asked first; None means it is not concerned.

    `plain_policy`, if there is one, speaks for clients of the plain listener, who may do everything otherwise.
    """

    def __init__(self, certificates: Certificates, policies: PolicyResources, registry: Registry, arns: Arns) -> None:
        self._certificates = certificates
        self._policies = policies
        self._registry = registry
        self._arns = arns
        self._generation = 0
        self._contexts: dict[str, Context] = {}
        self._standings: dict[tuple[str, str | None], Standing] = {}
        self._prefix = arns.iot("")
        self.authorize: Authorize = lambda request: None
        self.plain_policy: Policy | None = None

    def invalidate(self) -> None:
        """Forget every decision: policies, certificates or attachments have changed."""
        self._generation += 1
        self._standings.clear()

    # The broker's questions

    def connect(self, request: ConnectRequest, /) -> ConnectDecision | Awaitable[ConnectDecision]:
        """Decide on a CONNECT."""
        if request.listener in ("mqtt", "local"):
            return self._plain(request)
        answer = self.authorize(request)
        if answer is not None:
            return answer
        if request.certificate is not None:
            identity = self.identify(request.certificate, request.client_id, request.source_ip, request.sni)
        else:
            identity = self._signed(request)
        if identity is None:
            return ConnectDecision(False, reason_code=NOT_AUTHORIZED)
        self.describe_connect(identity, request)
        if identity.policies is None and identity.principal_arn is None:
            return ConnectDecision(True, identity, identity.principal)
        allowed = self.allows(identity, "iot:Connect", f"client/{request.client_id}")
        return ConnectDecision(allowed, identity, identity.principal)

    def _plain(self, request: ConnectRequest) -> ConnectDecision:
        """A client without TLS: everything is allowed, unless a policy was given for such clients."""
        principal = request.username or ""
        if self.plain_policy is None or request.listener == "local":
            return ConnectDecision(True, None, principal=principal)
        context: Context = {"aws:sourceip": request.source_ip, "iot:clientid": request.client_id}
        identity = Identity(principal, None, request.client_id, context, policies=(self.plain_policy,))
        self.describe_connect(identity, request)
        return ConnectDecision(self.allows(identity, "iot:Connect", f"client/{request.client_id}"), identity, principal)

    def describe_connect(self, identity: Identity, request: ConnectRequest) -> None:
        """Add what only a CONNECT knows: the connect attributes."""
        attributes = [] if request.clean else ["PersistentConnect"]
        if request.will_topic is not None:
            attributes.append("LastWill")
        if attributes:
            identity.context["iot:connectattributes"] = attributes

    def _signed(self, request: ConnectRequest) -> Identity | None:
        """A SigV4-signed WebSocket: an IAM principal, which local IAM does not restrict."""
        access_key = request.authorization
        if request.listener != "wss" or not isinstance(access_key, str) or not access_key:
            return None
        return Identity(access_key, None, request.client_id, {"aws:sourceip": request.source_ip})

    def identify(self, der: bytes, client_id: str | None, source_ip: str, domain: str | None = None) -> Identity | None:
        """The identity of a certificate, or None when it is unknown or not ACTIVE."""
        document = self._certificates.seen(der)
        if document is None or document["status"] != "ACTIVE":
            return None
        identifier: str = document["certificateId"]
        arn = self._certificates.arn(identifier)
        known = self._contexts.get(identifier)
        if known is None:
            if len(self._contexts) >= MAX_CERTIFICATES:
                self._contexts.clear()
            known = self._contexts[identifier] = certificate_context(der)
        context: Context = {"aws:sourceip": source_ip}
        if client_id is not None:
            context["iot:clientid"] = client_id
        if domain:
            context["iot:domainname"] = domain
        return Identity(identifier, arn, client_id, context, certificate=known)

    def may_publish(self, identity: object, topic: str, retain: bool, /) -> bool:
        """Publish, and RetainPublish for retained messages."""
        if not isinstance(identity, Identity) or _is_unrestricted(identity):
            return True
        resource = "topic/" + topic
        return self.allows(identity, "iot:Publish", resource) and (
            not retain or self.allows(identity, "iot:RetainPublish", resource)
        )

    def may_subscribe(self, identity: object, filter: str, /) -> bool:
        """Subscribe on `topicfilter/<filter>`; a shared subscription's filter stands there whole."""
        if not isinstance(identity, Identity) or _is_unrestricted(identity):
            return True
        return self.allows(identity, "iot:Subscribe", "topicfilter/" + filter)

    def may_receive(self, identity: object, topic: str, /) -> bool:
        """Receive, asked for each topic that is delivered."""
        if not isinstance(identity, Identity) or _is_unrestricted(identity):
            return True
        return self.allows(identity, "iot:Receive", "topic/" + topic)

    # Deciding

    def allows(self, identity: Identity, action: str, resource: str) -> bool:
        """Whether the policies in force allow an action on `topic/…`, `client/…` and the like; decisions are kept."""
        if identity.generation != self._generation:
            self._refresh(identity)
        decisions = identity.decisions
        if decisions is None:
            decisions = identity.decisions = {}
        key = (action, resource)
        decision = decisions.get(key)
        if decision is None:
            if len(decisions) >= MAX_DECISIONS:
                decisions.clear()
            decision = self.decide(identity, action, resource).allowed
            if action != "iot:Connect":  # That is asked once.
                decisions[key] = decision
        return decision

    def decide(self, identity: Identity, action: str, resource: str) -> Decision:
        """Decide anew, and say by which statement."""
        if identity.generation != self._generation:
            self._refresh(identity)
        return decide(identity.in_force, action, self._prefix + resource, identity.context)

    def _refresh(self, identity: Identity) -> None:
        """Take up the standing that its principal has now; a custom authorizer's identity keeps its own policies."""
        identity.generation = self._generation
        identity.decisions = None
        if identity.policies is not None:
            describe_thing(identity.context, None)
            identity.in_force = identity.policies
            return
        thing = None
        if identity.principal_arn:
            thing = self._registry.thing_of(identity.principal_arn, identity.client_id)
        key = (identity.principal, thing["thingName"] if thing else None)
        standing = self._standings.get(key)
        if standing is None:
            if len(self._standings) >= MAX_CERTIFICATES:
                self._standings.clear()
            standing = self._standings[key] = self._standing(identity, thing)
        identity.thing = standing.thing
        identity.exclusive_thing = standing.exclusive_thing
        identity.in_force = standing.in_force
        identity.wants_trace = standing.wants_trace
        if standing.is_shared:
            identity.decisions = standing.decisions
            return
        forget_thing(identity.context)
        identity.context = {**(identity.certificate or {}), **identity.context, **standing.context}

    def _standing(self, identity: Identity, thing: Document | None) -> Standing:
        arn, name = identity.principal_arn, thing["thingName"] if thing else None
        context: Context = {}
        describe_thing(context, thing)
        if not self._is_active(identity):
            return Standing(name, self._exclusive(name, arn), (), context, True, False)
        in_force = tuple(self._policies.parsed(each) for each in self._policies.in_force(arn, name))
        return Standing(
            name,
            self._exclusive(name, arn),
            in_force,
            context,
            not any(_asks_for_context(policy) for policy in in_force),
            any(_speaks_of_greengrass(policy) for policy in in_force),
        )

    def _exclusive(self, thing: str | None, principal_arn: str | None) -> str | None:
        if thing is None or principal_arn is None:
            return None
        kind = self._registry.principals.note(thing, principal_arn)
        return thing if kind == "EXCLUSIVE_THING" else None

    def _is_active(self, identity: Identity) -> bool:
        """A certificate that is no longer ACTIVE has no rights."""
        document = self._certificates.kind.get(identity.principal)
        return document is not None and document["status"] == "ACTIVE"


def _speaks_of_greengrass(policy: Policy) -> bool:
    """A core device's policy has greengrass actions; its link carries trace context.

    Discover alone is a client device's action, and a client device gets no property that its peer has not sent.
    """
    actions = (action.lower() for each in policy.statements for action in each.actions)
    return any(action.startswith("greengrass:") and action != "greengrass:discover" for action in actions)


def _asks_for_context(policy: Policy) -> bool:
    """Whether it has a variable or a condition, so that decisions differ between connections."""
    return any(each.conditions or any("${" in text for text in each.resources) for each in policy.statements)


def _is_unrestricted(identity: Identity) -> bool:
    """An IAM principal: local IAM restricts nobody."""
    return identity.policies is None and identity.principal_arn is None


def forget_thing(context: Context) -> None:
    """Take the thing policy variables away."""
    if "iot:connection.thing.isattached" in context:
        for key in [key for key in context if key.startswith("iot:connection.thing.")]:
            del context[key]


def describe_thing(context: Context, thing: Document | None) -> None:
    """Set the thing policy variables, or take them away."""
    forget_thing(context)
    context["iot:connection.thing.isattached"] = "true" if thing else "false"
    if thing is None:
        return
    context["iot:connection.thing.thingname"] = thing["thingName"]
    if thing.get("thingTypeName"):
        context["iot:connection.thing.thingtypename"] = thing["thingTypeName"]
    for key, value in thing["attributes"].items():
        context[f"iot:connection.thing.attributes[{key.lower()}]"] = value


def require(access: PolicyAccess, identity: Identity, action: str, resource: str) -> None:
    """Raise AwsError ForbiddenException unless the identity may."""
    if not _is_unrestricted(identity) and not access.allows(identity, action, resource):
        raise AwsError("ForbiddenException", "Forbidden", 403)
