"""No member of an emulated operation's input is left unread by accident: each is named in its room, or in the table."""

import re
from pathlib import Path

import pytest

from foreshore.parity import rows
from foreshore.shapes.service_model import ServiceModel

ROOT = Path(__file__).parents[1] / "foreshore"
ROOMS = {
    "iot": "iot", "iot-data": "iot", "iot-jobs-data": "iot", "iotdeviceadvisor": "iot", "greengrassv2": "greengrass",
    "lambda": "functions",
}  # fmt: skip

# Members that nothing reads, below any operation, and words of the parity note that says so; "" where what they stand
# below is refused, or only shown again.
UNREAD = {
    "iot": {
        "channelArn": "AWS removed the services",
        "cognitoIdentityPoolId": "Cognito identity pools are not consulted",
        "connectionAttribute": "kept, not added to messages",
        "customFields": "custom fields' types",
        "geoLocations": "Not: locations",
        "messageId": "AWS removed the services",
        "ocspAuthorizedResponderArn": "",
        "ocspLambdaArn": "",
        "overrideDynamicGroups": "overrideDynamicGroups is accepted and has no effect",
        "rangeKeyField": "",  # Read as f"{prefix}KeyField".
        "rangeKeyValue": "",
        "secretType": "",
        "securityGroups": "their subnets mean nothing here",
        "securityPolicy": "TLS policy are not enforced",
        "subnetIds": "their subnets mean nothing here",
        "thingAttribute": "kept, not added to messages",
        "userPropertyKey": "kept, not added to messages",
        "vpcId": "their subnets mean nothing here",
    },
    "iotdeviceadvisor": {
        "authenticationMethod": "MQTT over TLS alone",
        "devicePermissionRoleArn": "roles are not asked",
        "deviceRoleArn": "roles are not asked",
        "parallelRun": "also with parallelRun",
    },
    "greengrassv2": {
        "addGroupOwner": "can't carry over is a WARN",
        "cpus": "logged as without effect",
        "destinationPath": "can't carry over is a WARN",
        "iotEndpointType": "one kind of URL",
        "s3EndpointType": "one kind of URL",
        "sourcePath": "can't carry over is a WARN",
        "windowsUser": "",  # Named in the log with the rest of runWith.
    },
    "lambda": {
        "AmazonManagedKafkaEventSourceConfig": "", "DocumentDBEventSourceConfig": "", "Queues": "",
        "SelfManagedEventSource": "", "SelfManagedKafkaEventSourceConfig": "", "SourceAccessConfigurations": "",
        "Topics": "", "Metrics": "", "MaximumPollers": "", "MinimumPollers": "", "PollerGroupName": "",
        "Arn": "", "LocalMountPath": "", "S3FilesConfig": "", "EntryPoint": "", "Command": "", "WorkingDirectory": "",
        "Ipv6AllowedForDualStack": "", "SecurityGroupIds": "", "SubnetIds": "", "TenantIsolationMode": "",
        "LambdaManagedInstancesCapacityProviderConfig": "", "ExecutionTimeout": "", "RetentionPeriodInDays": "",
        "AllowCredentials": "", "AllowHeaders": "", "AllowMethods": "", "AllowOrigins": "", "ExposeHeaders": "",
        "MaxAge": "",  # A template's spelling and the API's are read alike, in small letters.
        "DurableExecutionName": "",  # Read as a header.
        "MasterRegion": "",
        "S3ObjectStorageMode": "",
        "SourceKMSKeyArn": "nothing is encrypted",
    },
}  # fmt: skip


def unread(model, shape, named, seen=frozenset()):
    """The names of a shape's members, at any depth, that are not named; what is below such a one is not asked."""
    described = model.shapes[shape]
    if described["type"] == "list":
        yield from unread(model, described["member"]["shape"], named, seen)
    elif described["type"] == "map":
        yield from unread(model, described["value"]["shape"], named, seen)
    elif described["type"] == "structure" and shape not in seen:
        for name, member in described.get("members", {}).items():
            if name in named:
                yield from unread(model, member["shape"], named, seen | {shape})
            else:
                yield name


@pytest.mark.parametrize("service", ROOMS)
def test_every_member_is_read_or_said(service):
    text = "\n".join(path.read_text() for path in (ROOT / ROOMS[service]).rglob("*.py") if "parity" not in path.name)
    named = set(re.findall(r"""["']([A-Za-z0-9]+)["']""", text)) | set(re.findall(r"def do_([a-z_]+)", text))
    model = ServiceModel.load(service)
    found = set()
    for name, operation in model.operations.items():
        is_here = name in named or re.sub(r"(?<!^)([A-Z])", r"_\1", name).lower() in named
        if is_here and operation.input:
            found |= set(unread(model, operation.input, named))
    assert found == set(UNREAD.get(service, {}))


def test_what_is_said_of_them_stands_in_the_parity_table():
    notes = " ".join(row.note for row in rows())
    assert [words for table in UNREAD.values() for words in table.values() if words not in notes] == []
