"""CloudFormation types to the rooms that make them: the table `TYPES` is the list of what templates may hold of ours.

Each row gives a resource's identity (its Ref and attributes, known before it is made) and its maker. A type that is
not here belongs to the backend, unless `REFUSED` says that the backend would accept it without the effect AWS has.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from foreshore.cloud import known_properties
from foreshore.cloud.stack import Stack
from foreshore.errors import UserError

if TYPE_CHECKING:
    from foreshore.functions.service import Functions
    from foreshore.iot.service import IotCore

Json = Any
Identity = Callable[[Stack, str, Json], dict[str, Json]]
Maker = Callable[["Rooms", Stack, str, dict[str, Json]], Awaitable[None]]

REFUSED = {
    "AWS::Events::Rule": "schedules and event buses do not reach local functions",
    "AWS::Scheduler::Schedule": "schedules do not reach local functions",
    "AWS::ApiGateway::RestApi": "REST APIs are not emulated; an HttpApi is",
    "AWS::Serverless::StateMachine": "state machines do not reach local functions",
}
# (property, what its value holds when a function is meant, what would call it), of types that the backend makes.
_TRIGGERS = {
    "AWS::Cognito::UserPool": ("LambdaConfig", "", "triggers of user pools"),
    "AWS::KinesisFirehose::DeliveryStream": ("ExtendedS3DestinationConfiguration", "'Lambda'", "transformations"),
    "AWS::S3::Bucket": ("NotificationConfiguration", "LambdaConfigurations", "bucket notifications"),
    "AWS::SNS::Subscription": ("Protocol", "lambda", "topics"),
    "AWS::SNS::Topic": ("Subscription", "'lambda'", "topics"),
    "AWS::SecretsManager::RotationSchedule": ("RotationLambdaARN", "", "rotations of secrets"),
}
_FUNCTION_IN_URI = re.compile(r"functions/(arn:[^/]+)/invocations")


@dataclass(slots=True)
class Rooms:
    """What makers need. A distribution is only noted here; `app.py` starts the listeners."""

    functions: Functions | None
    iot: IotCore | None
    distributions: dict[str, dict[str, Json]] = field(default_factory=dict)
    edge_policies: dict[str, dict[str, Json]] = field(default_factory=dict)
    apis: dict[str, str] = field(default_factory=dict)


class Provisioner:
    """`foreshore.cloud.stack.Provisioner` over the rooms. `note` is told of properties that have no effect."""

    def __init__(self, rooms: Rooms, note: Callable[[str], None] = lambda text: None) -> None:
        self.rooms = rooms
        self._note = note

    def owns(self, resource_type: str) -> bool:
        """Whether a room makes this type."""
        return resource_type in TYPES

    def refusal(self, resource_type: str, properties: Mapping[str, Json]) -> str:
        """Why a type can't be had here, or an empty text."""
        name, words, why = _TRIGGERS.get(resource_type, ("", "", ""))
        if name and properties.get(name) and words in str(properties[name]):
            return f"{why} do not reach local functions"
        owned = ("AWS::IoT::", "AWS::Lambda::", "AWS::ApiGateway", "AWS::CloudFront::", "AWS::GreengrassV2::")
        if resource_type.startswith(owned):
            return REFUSED.get(resource_type, "not emulated")
        return REFUSED.get(resource_type, "")

    def identity(self, stack: Stack, logical_id: str, resource_type: str, name: Json) -> dict[str, Json]:
        """Ref and attributes before the resource is made."""
        return TYPES[resource_type].identity(stack, logical_id, name)

    async def create(self, stack: Stack, logical_id: str, resource_type: str, properties: dict[str, Json]) -> None:
        """Make or update the resource. Raises UserError for a property that is not emulated."""
        for note in known_properties.check(resource_type, logical_id, properties):
            self._note(f"{stack.name}: {note}")
        await TYPES[resource_type].make(self.rooms, stack, logical_id, properties)


@dataclass(slots=True, frozen=True)
class Type:
    """One row of the table."""

    identity: Identity
    make: Maker


def _digest(stack: Stack, logical_id: str) -> str:
    return hashlib.sha256(f"{stack.name}/{logical_id}".encode()).hexdigest()


def _named(service: str, kind: str, separator: str = "-") -> Identity:
    """Ref is the name, Arn `arn:aws:<service>:<region>:<account>:<kind><name>`."""

    def identity(stack: Stack, logical_id: str, name: Json) -> dict[str, Json]:
        chosen = str(name or stack.physical_name(logical_id, separator)[-64:])
        return {"Ref": chosen, "Arn": f"arn:aws:{service}:{stack.region}:{stack.account}:{kind}{chosen}"}

    return identity


def _marker(stack: Stack, logical_id: str, name: Json) -> dict[str, Json]:
    return {"Ref": stack.physical_name(logical_id)}


def _uuid(stack: Stack, logical_id: str, name: Json) -> dict[str, Json]:
    identifier = str(uuid.UUID(_digest(stack, logical_id)[:32]))
    return {"Ref": identifier, "Id": identifier}


def _function_of(stack: Stack, logical_id: str) -> str:
    """The name of the function that a version or alias is of."""
    properties = stack.template["Resources"][logical_id]["Properties"]
    name = str(stack.resolver.resolve(properties["FunctionName"]))
    return name.split(":function:")[-1].split(":")[0]


def _version_identity(stack: Stack, logical_id: str, name: Json) -> dict[str, Json]:
    # Functions are made anew at each start, so the first version of each is 1.
    target = stack.template["Resources"][logical_id]["Properties"]["FunctionName"]
    function = stack.identities.get(target["Ref"]) if isinstance(target, dict) and "Ref" in target else None
    base = function["Arn"] if function else f"arn:aws:lambda:{stack.region}:{stack.account}:function:{target}"
    return {"Ref": f"{base}:1", "Version": "1", "FunctionArn": f"{base}:1"}


def _alias_identity(stack: Stack, logical_id: str, name: Json) -> dict[str, Json]:
    properties = stack.template["Resources"][logical_id]["Properties"]
    target = properties["FunctionName"]
    function = stack.identities.get(target["Ref"]) if isinstance(target, dict) and "Ref" in target else None
    base = function["Arn"] if function else f"arn:aws:lambda:{stack.region}:{stack.account}:function:{target}"
    arn = f"{base}:{properties['Name']}"
    return {"Ref": arn, "AliasArn": arn}


def _api_identity(stack: Stack, logical_id: str, name: Json) -> dict[str, Json]:
    digest = int(_digest(stack, logical_id), 16)
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    api_id = "".join(letters[(digest >> (6 * index)) % 36] for index in range(10))
    return {
        "Ref": api_id,
        "ApiId": api_id,
        "ApiEndpoint": f"https://{api_id}.execute-api.{stack.region}.amazonaws.com",
    }


def _stage_identity(stack: Stack, logical_id: str, name: Json) -> dict[str, Json]:
    return {"Ref": stack.template["Resources"][logical_id]["Properties"].get("StageName", "$default")}


def _distribution_identity(stack: Stack, logical_id: str, name: Json) -> dict[str, Json]:
    digest = _digest(stack, logical_id)
    identifier = "E" + digest[:13].upper()
    return {"Ref": identifier, "Id": identifier, "DomainName": f"d{digest[:13]}.cloudfront.net"}


def _oai_identity(stack: Stack, logical_id: str, name: Json) -> dict[str, Json]:
    identifier = "E" + _digest(stack, logical_id)[:13].upper()
    return {"Ref": identifier, "Id": identifier, "S3CanonicalUserId": _digest(stack, logical_id)}


async def _nothing(rooms: Rooms, stack: Stack, logical_id: str, properties: dict[str, Json]) -> None:
    """A resource that has no effect of its own here: its identity is all that others need."""


async def _make_function(rooms: Rooms, stack: Stack, logical_id: str, properties: dict[str, Json]) -> None:
    from foreshore.functions.spec import FunctionSpec

    if rooms.functions is None:
        return
    properties = {**properties, "FunctionName": stack.identities[logical_id]["Ref"]}
    rooms.functions.create(FunctionSpec.from_cloudformation(logical_id, properties, stack.folder))


async def _make_version(rooms: Rooms, stack: Stack, logical_id: str, properties: dict[str, Json]) -> None:
    if rooms.functions is not None:
        rooms.functions.publish_version(_function_of(stack, logical_id))


async def _make_alias(rooms: Rooms, stack: Stack, logical_id: str, properties: dict[str, Json]) -> None:
    if rooms.functions is not None:
        name = _function_of(stack, logical_id)
        weights = (properties.get("RoutingConfig") or {}).get("AdditionalVersionWeights") or ()
        extra = {str(each["FunctionVersion"]): float(each["FunctionWeight"]) for each in weights}
        rooms.functions.put_alias(name, str(properties["Name"]), str(properties["FunctionVersion"]), extra)


def _url_identity(stack: Stack, logical_id: str, name: Json) -> dict[str, Json]:
    """Known beforehand: the URL's id follows from the ARN of the function or alias it is of."""
    from foreshore.functions.service import url_id_of

    properties = stack.template["Resources"][logical_id]["Properties"]
    target = properties["TargetFunctionArn"]
    reference = target.get("Ref") if isinstance(target, dict) else None
    known = stack.identities.get(reference or "", {})
    arn = str(known.get("Arn") or known.get("Ref") or target)
    if properties.get("Qualifier"):
        arn = f"{arn}:{properties['Qualifier']}"
    return {
        "Ref": arn,
        "FunctionArn": arn,
        "FunctionUrl": f"https://{url_id_of(arn)}.lambda-url.{stack.region}.on.aws/",
    }


async def _make_url(rooms: Rooms, stack: Stack, logical_id: str, properties: dict[str, Json]) -> None:
    if properties.get("InvokeMode") == "RESPONSE_STREAM":
        raise UserError("response streaming of a function URL is not emulated", code="not-emulated")
    if rooms.functions is not None:
        name, _, qualifier = str(stack.identities[logical_id]["Ref"]).split(":function:")[-1].partition(":")
        rooms.functions.make_url(name, qualifier, properties.get("Cors"))


async def _make_event_source(rooms: Rooms, stack: Stack, logical_id: str, properties: dict[str, Json]) -> None:
    if rooms.functions is not None:
        await rooms.functions.create_event_source_mapping(properties)


async def _make_topic_rule(rooms: Rooms, stack: Stack, logical_id: str, properties: dict[str, Json]) -> None:
    if rooms.iot is not None:
        rooms.iot.create_topic_rule(stack.identities[logical_id]["Ref"], _lower_keys(properties["TopicRulePayload"]))


def _iot_type(resource_type: str) -> Type:
    """A type that `rooms.iot.resources` makes: things, policies, groups and their like."""

    async def make(rooms: Rooms, stack: Stack, logical_id: str, properties: dict[str, Json]) -> None:
        if rooms.iot is not None:
            rooms.iot.resources.make(resource_type, str(stack.identities[logical_id]["Ref"]), properties)

    prefix = _IOT_TYPES[resource_type]
    return Type(_named("iot", prefix) if prefix else _marker, make)


def _lower_keys(value: Json) -> Json:
    """CloudFormation's PascalCase to the API's camelCase, through nested actions (`DynamoDBv2` → `dynamoDBv2`)."""
    if isinstance(value, list):
        return [_lower_keys(item) for item in value]
    if isinstance(value, dict):
        return {(key[:1].lower() + key[1:]): _lower_keys(item) for key, item in value.items()}
    return value


async def _make_http_api(rooms: Rooms, stack: Stack, logical_id: str, properties: dict[str, Json]) -> None:
    if str(properties.get("ProtocolType") or "HTTP").upper() != "HTTP":
        raise UserError(f"{properties['ProtocolType']} APIs are not emulated", code="not-emulated")
    api_id = stack.identities[logical_id]["Ref"]
    rooms.apis[logical_id] = api_id
    if rooms.functions is None:
        return
    body = properties.get("Body") or {}
    if (body.get("components") or {}).get("securitySchemes") or body.get("security"):
        raise UserError("authorizers of an HttpApi are not emulated", code="not-emulated")
    routes = []
    for path, methods in (body.get("paths") or {}).items():
        for method, operation in methods.items():
            if method in ("parameters", "x-amazon-apigateway-cors") or not isinstance(operation, dict):
                continue
            integration = operation.get("x-amazon-apigateway-integration") or {}
            found = _FUNCTION_IN_URI.search(str(integration.get("uri", "")))
            if found is None:
                raise UserError(
                    f"route {method} {path}: only Lambda proxy integrations are emulated", code="not-emulated"
                )
            verb = "ANY" if method == "x-amazon-apigateway-any-method" else method.upper()
            routes.append((verb, path, found[1], str(integration.get("payloadFormatVersion", "2.0"))))
    cors = properties.get("CorsConfiguration") or body.get("x-amazon-apigateway-cors")
    rooms.functions.add_http_api(logical_id, api_id, routes, cors=cors)


async def _make_stage(rooms: Rooms, stack: Stack, logical_id: str, properties: dict[str, Json]) -> None:
    if properties.get("StageVariables"):
        raise UserError("stage variables are not emulated", code="not-emulated")


async def _make_distribution(rooms: Rooms, stack: Stack, logical_id: str, properties: dict[str, Json]) -> None:
    identity = stack.identities[logical_id]
    rooms.distributions[logical_id] = {
        "id": identity["Ref"], "domain": identity["DomainName"], "config": properties["DistributionConfig"]
    }  # fmt: skip


async def _make_edge_policy(rooms: Rooms, stack: Stack, logical_id: str, properties: dict[str, Json]) -> None:
    # Each of the three kinds has one property, <Kind>PolicyConfig.
    ((_, config),) = properties.items()
    rooms.edge_policies[stack.identities[logical_id]["Ref"]] = config


# What stands before the name in the ARN; attachments have neither.
_IOT_TYPES = {
    "AWS::IoT::Authorizer": "authorizer/",
    "AWS::IoT::BillingGroup": "billinggroup/",
    "AWS::IoT::Policy": "policy/",
    "AWS::IoT::PolicyPrincipalAttachment": "",
    "AWS::IoT::RoleAlias": "rolealias/",
    "AWS::IoT::Thing": "thing/",
    "AWS::IoT::ThingGroup": "thinggroup/",
    "AWS::IoT::ThingPrincipalAttachment": "",
    "AWS::IoT::ThingType": "thingtype/",
}

TYPES: dict[str, Type] = {
    **{name: _iot_type(name) for name in _IOT_TYPES},
    "AWS::Lambda::Function": Type(_named("lambda", "function:"), _make_function),
    "AWS::Lambda::Version": Type(_version_identity, _make_version),
    "AWS::Lambda::Alias": Type(_alias_identity, _make_alias),
    "AWS::Lambda::Permission": Type(_marker, _nothing),
    "AWS::Lambda::Url": Type(_url_identity, _make_url),
    "AWS::Lambda::EventSourceMapping": Type(_uuid, _make_event_source),
    "AWS::IoT::TopicRule": Type(_named("iot", "rule/", "_"), _make_topic_rule),
    "AWS::ApiGatewayV2::Api": Type(_api_identity, _make_http_api),
    "AWS::ApiGatewayV2::Stage": Type(_stage_identity, _make_stage),
    "AWS::CloudFront::Distribution": Type(_distribution_identity, _make_distribution),
    "AWS::CloudFront::CachePolicy": Type(_uuid, _make_edge_policy),
    "AWS::CloudFront::OriginRequestPolicy": Type(_uuid, _make_edge_policy),
    "AWS::CloudFront::ResponseHeadersPolicy": Type(_uuid, _make_edge_policy),
    "AWS::CloudFront::CloudFrontOriginAccessIdentity": Type(_oai_identity, _nothing),
    "AWS::CloudFront::OriginAccessControl": Type(_oai_identity, _nothing),
}
