"""Rules of the `iot` API that its reference states beside the shapes: what is refused, with which code, and what is
shown of a resource that was given the least."""

import json
import re
from datetime import UTC, datetime

import pytest
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives.asymmetric import ec

from tests.iot.conftest import Edge
from tests.iot.test_identities import sign

ARN = "arn:aws:iot:us-east-1:000000000000:"
ROLE = "arn:aws:iam::000000000000:role/r"
POLICY = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"iot:*","Resource":"*"}]}'


@pytest.fixture(scope="module")
def iot(tmp_path_factory):
    edge = Edge(tmp_path_factory.mktemp("rules"))
    client = edge.client()
    client.jobs_data = edge.client("iot-jobs-data")
    client.data = edge.client("iot-data")
    yield client
    edge.stop()


def refused(call, **arguments):
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    return caught.value.response["Error"]["Code"], caught.value.response["ResponseMetadata"]["HTTPStatusCode"]


def test_things_are_listed_by_an_attribute_whatever_its_value(iot):
    for number in range(3):
        attributes = {"attributes": {"wattage": str(number)} if number else {}}
        iot.create_thing(thingName=f"bulb-{number}", attributePayload=attributes)
    found = [each["thingName"] for each in iot.list_things(attributeName="wattage")["things"]]
    assert found == ["bulb-1", "bulb-2"]
    assert iot.list_things(attributeName="wattage", attributeValue="2")["things"][0]["thingName"] == "bulb-2"


def test_dynamic_groups_need_the_index_and_have_no_policies(iot):
    group = {"thingGroupName": "warm", "queryString": "attributes.temperature>60"}
    assert refused(iot.create_dynamic_thing_group, **group) == ("InvalidRequestException", 400)
    off = {"thingIndexingMode": "OFF", "thingConnectivityIndexingMode": "OFF"}
    assert iot.get_indexing_configuration()["thingIndexingConfiguration"] == off
    iot.update_indexing_configuration(thingIndexingConfiguration={"thingIndexingMode": "REGISTRY"})
    shown = iot.get_indexing_configuration()["thingIndexingConfiguration"]
    assert {"name": "registry.version", "type": "Number"} in shown["managedFields"]
    iot.create_dynamic_thing_group(**group)
    iot.create_policy(policyName="p", policyDocument=POLICY)
    target = ARN + "thinggroup/warm"
    for refusal in (
        refused(iot.attach_policy, policyName="p", target=target),
        refused(iot.update_thing_group, thingGroupName="warm", thingGroupProperties={}),
        refused(iot.update_indexing_configuration, thingIndexingConfiguration={"thingIndexingMode": "OFF"}),
    ):
        assert refusal == ("InvalidRequestException", 400)
    changed = iot.update_dynamic_thing_group(thingGroupName="warm", thingGroupProperties={}, queryString="thingName:x")
    assert changed["version"] == 2
    wrong = {"thingGroupName": "warm", "thingGroupProperties": {}, "queryString": "thingName:y", "expectedVersion": 1}
    assert refused(iot.update_dynamic_thing_group, **wrong) == ("VersionConflictException", 409)
    assert iot.describe_thing_group(thingGroupName="warm")["queryString"] == "thingName:x"
    iot.delete_dynamic_thing_group(thingGroupName="warm")


@pytest.mark.parametrize(
    ("configuration", "schema"),
    [
        ({"thingIndexingMode": "REGISTRY"}, "REGISTRY"),
        ({"thingIndexingMode": "REGISTRY_AND_SHADOW"}, "REGISTRY_AND_SHADOW"),
        (
            {"thingIndexingMode": "REGISTRY_AND_SHADOW", "thingConnectivityIndexingMode": "STATUS"},
            "REGISTRY_AND_SHADOW_AND_CONNECTIVITY_STATUS",
        ),
        ({"thingIndexingMode": "REGISTRY_AND_SHADOW", "namedShadowIndexingMode": "ON"}, "MULTI_INDEXING_MODE"),
    ],
)
def test_an_index_tells_what_it_is_made_of(iot, configuration, schema):
    groups = {"thingGroupIndexingMode": "ON"}
    iot.update_indexing_configuration(thingIndexingConfiguration=configuration, thingGroupIndexingConfiguration=groups)
    assert iot.describe_index(indexName="AWS_Things")["schema"] == schema
    assert iot.describe_index(indexName="AWS_ThingGroups")["schema"] == "THING_GROUPS"


def test_a_device_that_never_connected_is_not_connected(iot):
    both = {"thingIndexingMode": "REGISTRY", "thingConnectivityIndexingMode": "STATUS"}
    iot.update_indexing_configuration(thingIndexingConfiguration=both)
    iot.create_thing(thingName="silent")
    known = iot.get_thing_connectivity_data(thingName="silent")
    assert {name: known[name] for name in known if name != "ResponseMetadata"} == {
        "thingName": "silent",
        "connected": False,
    }
    assert iot.search_index(queryString="thingName:silent")["things"][0]["connectivity"] == {"connected": False}


def test_groups_below_a_parent_are_listed_with_theirs_only_when_asked(iot):
    for name, above in (("lights", None), ("red", "lights"), ("led", "red")):
        iot.create_thing_group(thingGroupName=name, **({"parentGroupName": above} if above else {}))

    def listed(**how):
        return [each["groupName"] for each in iot.list_thing_groups(parentGroup="lights", **how)["thingGroups"]]

    assert (listed(), listed(recursive=True)) == (["red"], ["led", "red"])
    with pytest.raises(ClientError, match="Cannot delete thing group : red when there are still child groups"):
        iot.delete_thing_group(thingGroupName="red")


def test_tags_belong_to_resources_that_there_are(iot):
    none = ARN + "thinggroup/none"
    missing = ("ResourceNotFoundException", 404)
    assert refused(iot.list_tags_for_resource, resourceArn=none) == missing
    assert refused(iot.tag_resource, resourceArn=none, tags=[{"Key": "k", "Value": "v"}]) == missing
    arn = iot.create_thing_group(thingGroupName="tagged")["thingGroupArn"]
    reserved = [{"Key": "aws:k", "Value": "v"}]
    assert refused(iot.tag_resource, resourceArn=arn, tags=reserved) == ("InvalidRequestException", 400)


def test_what_certificates_and_policies_are(iot):
    made = iot.create_keys_and_certificate()
    validity = iot.describe_certificate(certificateId=made["certificateId"])["certificateDescription"]["validity"]
    assert validity["notAfter"] == datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)
    iot.create_policy(policyName="attached", policyDocument=POLICY)
    assert re.fullmatch("[0-9a-f]{64}", iot.get_policy(policyName="attached")["generationId"])
    iot.attach_policy(policyName="attached", target=made["certificateArn"])
    transfer = {"certificateId": made["certificateId"], "targetAwsAccount": "1" * 12}
    assert refused(iot.transfer_certificate, **transfer) == ("TransferConflictException", 409)


def test_no_default_authorizer_can_be_cleared_when_there_is_none(iot):
    assert refused(iot.clear_default_authorizer) == ("ResourceNotFoundException", 404)


def test_jobs_are_for_things_that_there_are_and_show_what_was_not_given(iot):
    missing = {"jobId": "none", "targets": [ARN + "thing/none"], "document": "{}"}
    assert refused(iot.create_job, **missing) == ("ResourceNotFoundException", 404)
    iot.create_thing(thingName="pump")
    many = {"jobId": "many", "targets": [ARN + "thing/pump"] * 101, "document": "{}"}
    assert refused(iot.create_job, **many) == ("InvalidRequestException", 400)
    fast = {**missing, "targets": [ARN + "thing/pump"], "jobExecutionsRolloutConfig": {"maximumPerMinute": 1001}}
    assert refused(iot.create_job, **fast) == ("InvalidRequestException", 400)
    iot.create_job(jobId="j", targets=[ARN + "thing/pump"], document="{}")
    job = iot.describe_job(jobId="j")["job"]
    assert [job[name] for name in ("presignedUrlConfig", "jobExecutionsRolloutConfig", "timeoutConfig")] == [{}] * 3
    assert iot.describe_job_execution(jobId="j", thingName="pump")["execution"]["statusDetails"] == {}


@pytest.mark.parametrize("details", [{"a": "x" * 1025}, {"a b": "x"}, {f"k{number}": "x" for number in range(11)}])
def test_status_details_that_are_refused(iot, details):
    iot.create_thing(thingName="valve")
    if "details" not in [each["jobId"] for each in iot.list_jobs()["jobs"]]:
        iot.create_job(jobId="details", targets=[ARN + "thing/valve"], document="{}")
    iot.jobs_data.start_next_pending_job_execution(thingName="valve")
    update = {"jobId": "details", "thingName": "valve", "status": "IN_PROGRESS", "statusDetails": details}
    assert refused(iot.jobs_data.update_job_execution, **update) == ("InvalidRequestException", 400)


def test_statistics_of_a_boolean_count_it_as_a_number(iot):
    iot.update_indexing_configuration(thingIndexingConfiguration={"thingIndexingMode": "REGISTRY_AND_SHADOW"})
    for number in range(4):
        iot.create_thing(thingName=f"flag-{number}")
        on = "false" if number else "true"
        iot.data.update_thing_shadow(thingName=f"flag-{number}", payload=f'{{"state":{{"reported":{{"on":{on}}}}}}}')
    found = iot.get_statistics(queryString="thingName:flag-*", aggregationField="shadow.reported.on")["statistics"]
    assert [found[name] for name in ("count", "average", "sum", "minimum", "maximum")] == [4, 0.25, 1.0, 0.0, 1.0]


def test_what_just_in_time_provisioning_may_go_by(iot):
    key = ec.generate_private_key(ec.SECP256R1())
    authority = {"caCertificate": sign("CA", key, "CA", key, ca=True), "certificateMode": "SNI_ONLY"}
    thing = {"Type": "AWS::IoT::Thing", "Properties": {"ThingName": {"Ref": "AWS::IoT::Certificate::CommonName"}}}
    parameters = {"AWS::IoT::Certificate::CommonName": {"Type": "String"}}
    body = json.dumps({"Parameters": parameters, "Resources": {"thing": thing}})
    for name, kind in (("jitp", "JITP"), ("fleet", "FLEET_PROVISIONING")):
        iot.create_provisioning_template(templateName=name, templateBody=body, type=kind, provisioningRoleArn=ROLE)
    invalid, missing = ("InvalidRequestException", 400), ("ResourceNotFoundException", 404)
    for config, refusal in (
        ({"templateName": "none"}, missing),
        ({"templateName": "fleet"}, invalid),
        ({"templateName": "jitp", "templateBody": body, "roleArn": ROLE}, invalid),
        ({"templateBody": "{", "roleArn": ROLE}, invalid),
    ):
        assert refused(iot.register_ca_certificate, **authority, registrationConfig=config) == refusal
    made = iot.register_ca_certificate(**authority, registrationConfig={"templateName": "jitp"})
    change = {"certificateId": made["certificateId"], "registrationConfig": {"templateName": "fleet"}}
    assert refused(iot.update_ca_certificate, **change) == invalid


def test_named_shadows_are_indexed_beside_the_registry_alone(iot):
    mode = {"thingIndexingMode": "REGISTRY", "namedShadowIndexingMode": "ON", "filter": {"namedShadowNames": ["cfg"]}}
    iot.update_indexing_configuration(thingIndexingConfiguration=mode)
    iot.create_thing(thingName="named")
    for name in ("", "cfg", "other"):
        shadow = {"shadowName": name} if name else {}
        iot.data.update_thing_shadow(thingName="named", payload='{"state":{"reported":{"a":1}}}', **shadow)
    found = json.loads(iot.search_index(queryString="thingName:named")["things"][0]["shadow"])
    assert (set(found), list(found["name"])) == ({"name"}, ["cfg"])
    assert set(found["name"]["cfg"]["metadata"]["reported"]["a"]) == {"timestamp"}


def test_a_certificate_that_is_known_is_not_registered_again(iot):
    issued = iot.create_keys_and_certificate()["certificatePem"]
    known = ("ResourceAlreadyExistsException", 409)
    assert refused(iot.register_certificate, certificatePem=issued) == known
    assert refused(iot.register_certificate_without_ca, certificatePem=issued) == known


def test_two_authorities_of_one_name_and_key_have_to_be_told_apart(iot):
    key = ec.generate_private_key(ec.SECP256R1())
    twins = [sign("Twin", key, "Twin", key, ca=True) for _ in range(2)]
    for each in twins:
        iot.register_ca_certificate(caCertificate=each, certificateMode="SNI_ONLY", setAsActive=True)
    device = sign("device", key, "Twin", key)
    assert refused(iot.register_certificate, certificatePem=device) == ("CertificateConflictException", 409)
    iot.register_certificate(certificatePem=device, caCertificatePem=twins[1])
