"""Which properties of the resource types that the rooms make are acted on; every other one is refused or named. Pure.

A property that changes what a resource does, and does not do so here, is never taken in silence: `REFUSED` lists those
without which the resource can't do its work, and what is in neither table nor `NEUTRAL` gets a note.

Source: AWS CloudFormation template reference, the resource types named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from foreshore.errors import UserError

NEUTRAL = frozenset({"Comment", "Description", "Tags"})
"""Shown and billed by, and nothing else."""

ACTED_ON: Mapping[str, frozenset[str]] = {
    "AWS::ApiGatewayV2::Api": frozenset({"Body", "CorsConfiguration", "Name", "ProtocolType"}),
    "AWS::ApiGatewayV2::Stage": frozenset({"ApiId", "AutoDeploy", "DeploymentId", "StageName", "StageVariables"}),
    "AWS::CloudFront::Distribution": frozenset({"DistributionConfig"}),
    "AWS::IoT::Authorizer": frozenset(
        {
            "AuthorizerFunctionArn", "AuthorizerName", "EnableCachingForHttp", "SigningDisabled", "Status",
            "TokenKeyName", "TokenSigningPublicKeys",
        }
    ),
    "AWS::IoT::BillingGroup": frozenset({"BillingGroupName", "BillingGroupProperties"}),
    "AWS::IoT::Policy": frozenset({"PolicyDocument", "PolicyName"}),
    "AWS::IoT::PolicyPrincipalAttachment": frozenset({"PolicyName", "Principal"}),
    "AWS::IoT::RoleAlias": frozenset({"CredentialDurationSeconds", "RoleAlias", "RoleArn"}),
    "AWS::IoT::Thing": frozenset({"AttributePayload", "ThingName"}),
    "AWS::IoT::ThingGroup": frozenset({"ParentGroupName", "QueryString", "ThingGroupName", "ThingGroupProperties"}),
    "AWS::IoT::ThingPrincipalAttachment": frozenset({"Principal", "ThingName", "ThingPrincipalType"}),
    "AWS::IoT::ThingType": frozenset({"DeprecateThingType", "ThingTypeName", "ThingTypeProperties"}),
    "AWS::IoT::TopicRule": frozenset({"RuleName", "TopicRulePayload"}),
    "AWS::Lambda::Alias": frozenset({"FunctionName", "FunctionVersion", "Name", "RoutingConfig"}),
    "AWS::Lambda::EventSourceMapping": frozenset(
        {
            "BatchSize", "BisectBatchOnFunctionError", "DestinationConfig", "Enabled", "EventSourceArn",
            "FilterCriteria", "FunctionName", "FunctionResponseTypes", "MaximumBatchingWindowInSeconds",
            "MaximumRecordAgeInSeconds", "MaximumRetryAttempts", "ParallelizationFactor", "ScalingConfig",
            "StartingPosition", "StartingPositionTimestamp", "TumblingWindowInSeconds",
        }
    ),
    "AWS::Lambda::Function": frozenset(
        {
            "Architectures", "Code", "DeadLetterConfig", "Environment", "EphemeralStorage", "FunctionName", "Handler",
            "KmsKeyArn", "Layers", "LoggingConfig", "MemorySize", "PackageType", "ReservedConcurrentExecutions", "Role",
            "Runtime", "Timeout", "TracingConfig",
        }
    ),
    "AWS::Lambda::Url": frozenset({"AuthType", "Cors", "InvokeMode", "Qualifier", "TargetFunctionArn"}),
    "AWS::Lambda::Version": frozenset({"CodeSha256", "FunctionName"}),
}  # fmt: skip
"""A type that is not here takes all of its properties, or has no effect whatever they are."""

REFUSED: Mapping[str, Mapping[str, str]] = {
    "AWS::ApiGatewayV2::Api": {
        "BodyS3Location": "definitions of APIs in S3",
        "RouteSelectionExpression": "WebSocket APIs",
        "Target": "APIs made of a Target alone",
    },
    "AWS::Lambda::Function": {
        "CapacityProviderConfig": "capacity providers",
        "DurableConfig": "durable executions",
        "FileSystemConfigs": "file systems of functions",
        "ImageConfig": "container images",
        "TenancyConfig": "tenant isolation",
    },
}


WITHOUT_EFFECT: Mapping[str, tuple[tuple[str, str], ...]] = {
    "AWS::IoT::ThingType": (("ThingTypeProperties", "Mqtt5Configuration"),),
    "AWS::Lambda::Function": (("LoggingConfig", "SystemLogLevel"),),
}
"""Members of properties that are acted on otherwise."""


def check(resource_type: str, logical_id: str, properties: Mapping[str, Any]) -> Iterator[str]:
    """Name the properties without effect. Raises UserError (`not-emulated`) for one that is refused."""
    refused = REFUSED.get(resource_type, {})
    known = ACTED_ON.get(resource_type)
    for name, value in properties.items():
        if not value or known is None or name in known or name in NEUTRAL:
            continue
        if name in refused:
            raise UserError(f"{name}: {refused[name]} are not emulated", code="not-emulated")
        yield f"{logical_id}: {name} of {resource_type} has no effect here"
    for name, member in WITHOUT_EFFECT.get(resource_type, ()):
        if (properties.get(name) or {}).get(member):
            yield f"{logical_id}: {name}.{member} of {resource_type} has no effect here"
