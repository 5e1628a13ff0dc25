"""The `iot` API as boto3 sees it: things, types, groups, certificates, policies, settings, search."""

import json
from datetime import UTC, datetime

import pytest
from botocore.exceptions import ClientError
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import NameOID

from tests.iot.signing import sign

ALLOW = json.dumps({"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "iot:*", "Resource": "*"}})


def code_of(call, **arguments):
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    return caught.value.response["Error"]["Code"]


def pages(call, name, *, size="maxResults", token="nextToken", **arguments):
    """Everything a list operation gives, a page of two at a time."""
    found, more = [], {}
    while True:
        answer = call(**arguments, **more, **{size: 2})
        found += answer[name]
        following = answer.get("nextMarker") or answer.get("nextToken")
        if not following:
            return found
        more = {token: following}


def make_ca(name="Test CA"):
    key = ec.generate_private_key(ec.SECP256R1())
    return key, sign(name, key, name, key, ca=True)


def test_things(edge):
    iot = edge.client()
    made = iot.create_thing(thingName="t1", attributePayload={"attributes": {"floor": "1"}})
    assert made["thingArn"] == "arn:aws:iot:us-east-1:000000000000:thing/t1"
    assert (
        iot.create_thing(thingName="t1", attributePayload={"attributes": {"floor": "1"}})["thingId"] == made["thingId"]
    )
    assert code_of(iot.create_thing, thingName="t1") == "ResourceAlreadyExistsException"
    assert code_of(iot.describe_thing, thingName="none") == "ResourceNotFoundException"
    four = {"attributes": dict.fromkeys("abcd", "1")}
    assert code_of(iot.create_thing, thingName="t2", attributePayload=four) == "InvalidRequestException"
    iot.create_thing_type(thingTypeName="sensor", thingTypeProperties={"searchableAttributes": ["floor"]})
    iot.create_thing(thingName="t2", thingTypeName="sensor", attributePayload=four)
    iot.update_thing(thingName="t1", attributePayload={"attributes": {"floor": "", "room": "7"}, "merge": True})
    described = iot.describe_thing(thingName="t1")
    assert (described["attributes"], described["version"]) == ({"room": "7"}, 2)
    assert code_of(iot.update_thing, thingName="t1", expectedVersion=1) == "VersionConflictException"
    assert [each["thingName"] for each in iot.list_things(thingTypeName="sensor")["things"]] == ["t2"]
    assert [each["thingName"] for each in iot.list_things(attributeName="room", attributeValue="7")["things"]] == ["t1"]
    for number in range(5):
        iot.create_thing(thingName=f"x{number}")
    assert [each["thingName"] for each in pages(iot.list_things, "things")] == [
        "t1",
        "t2",
        *(f"x{n}" for n in range(5)),
    ]
    iot.delete_thing(thingName="x0")
    assert code_of(iot.delete_thing_type, thingTypeName="sensor") == "InvalidRequestException"
    iot.deprecate_thing_type(thingTypeName="sensor")
    assert code_of(iot.create_thing, thingName="t3", thingTypeName="sensor") == "InvalidRequestException"
    assert iot.describe_thing_type(thingTypeName="sensor")["thingTypeMetadata"]["deprecated"] is True
    assert len(iot.list_thing_types()["thingTypes"]) == 1


def test_groups(edge):
    iot = edge.client()
    iot.create_thing_group(thingGroupName="site", thingGroupProperties={"thingGroupDescription": "d"})
    iot.create_thing_group(thingGroupName="hall", parentGroupName="site")
    iot.create_thing_group(thingGroupName="other")
    for name in ("a", "b"):
        iot.create_thing(thingName=name)
    iot.add_thing_to_thing_group(thingGroupName="hall", thingName="a")
    iot.add_thing_to_thing_group(
        thingGroupArn="arn:aws:iot:us-east-1:000000000000:thinggroup/site",
        thingArn="arn:aws:iot:us-east-1:000000000000:thing/b",
    )
    assert code_of(iot.add_thing_to_thing_group, thingGroupName="site", thingName="a") == "InvalidRequestException"
    assert iot.list_things_in_thing_group(thingGroupName="site")["things"] == ["b"]
    assert iot.list_things_in_thing_group(thingGroupName="site", recursive=True)["things"] == ["a", "b"]
    assert [each["groupName"] for each in iot.list_thing_groups_for_thing(thingName="a")["thingGroups"]] == ["hall"]
    assert list(iot.describe_thing_group(thingGroupName="site")["thingGroupMetadata"]) == ["creationDate"]
    metadata = iot.describe_thing_group(thingGroupName="hall")["thingGroupMetadata"]
    assert metadata["parentGroupName"] == "site"
    assert [each["groupName"] for each in metadata["rootToParentThingGroups"]] == ["site"]
    assert code_of(iot.delete_thing_group, thingGroupName="site") == "InvalidRequestException"
    assert [each["groupName"] for each in iot.list_thing_groups(parentGroup="site")["thingGroups"]] == ["hall"]
    assert len(iot.list_thing_groups(recursive=False)["thingGroups"]) == 2
    iot.update_thing_groups_for_thing(thingName="a", thingGroupsToRemove=["hall"], thingGroupsToAdd=["other"])
    assert iot.list_things_in_thing_group(thingGroupName="other")["things"] == ["a"]
    version = iot.update_thing_group(thingGroupName="hall", thingGroupProperties={"thingGroupDescription": "e"})
    assert version["version"] == 2
    iot.delete_thing_group(thingGroupName="hall", expectedVersion=2)
    # Group policies are in force for a thing by its groups and their parents.
    iot.create_policy(policyName="p", policyDocument=ALLOW)
    iot.attach_policy(policyName="p", target="arn:aws:iot:us-east-1:000000000000:thinggroup/other")
    assert [each["policyName"] for each in iot.get_effective_policies(thingName="a")["effectivePolicies"]] == ["p"]
    assert iot.get_effective_policies(thingName="b")["effectivePolicies"] == []


def test_dynamic_groups_and_search(edge):
    iot = edge.client()
    for number in range(6):
        attributes = {"floor": str(number % 3), "temperature": str(10 * number)}
        iot.create_thing(thingName=f"lamp-{number}", attributePayload={"attributes": attributes})
    assert code_of(iot.search_index, queryString="*") == "ResourceNotFoundException"
    iot.update_indexing_configuration(
        thingIndexingConfiguration={"thingIndexingMode": "REGISTRY", "thingConnectivityIndexingMode": "STATUS"},
        thingGroupIndexingConfiguration={"thingGroupIndexingMode": "ON"},
    )
    assert iot.list_indices()["indexNames"] == ["AWS_ThingGroups", "AWS_Things"]
    iot.create_dynamic_thing_group(thingGroupName="warm", queryString="attributes.temperature>30")
    assert iot.list_things_in_thing_group(thingGroupName="warm")["things"] == ["lamp-4", "lamp-5"]
    iot.update_thing(thingName="lamp-5", attributePayload={"attributes": {"temperature": "1"}, "merge": True})
    assert iot.list_things_in_thing_group(thingGroupName="warm")["things"] == ["lamp-4"]
    assert code_of(iot.add_thing_to_thing_group, thingGroupName="warm", thingName="lamp-1") == "InvalidRequestException"
    assert code_of(iot.create_dynamic_thing_group, thingGroupName="bad", queryString="(a") == "InvalidQueryException"
    found = iot.search_index(queryString="thingName:lamp-4")["things"][0]
    assert found["thingGroupNames"] == ["warm"]
    assert found["connectivity"]["connected"] is False
    assert len(pages(iot.search_index, "things", queryString="lamp*")) == 6
    assert [each["thingGroupName"] for each in iot.search_index(indexName="AWS_ThingGroups", queryString="warm")["thingGroups"]] == ["warm"]  # fmt: skip  # noqa: E501
    assert code_of(iot.get_cardinality, queryString="*", queryVersion="2016-01-01") == "InvalidQueryException"
    group = {"thingGroupName": "old", "queryString": "*", "queryVersion": "2016-01-01"}
    assert code_of(iot.create_dynamic_thing_group, **group) == "InvalidQueryException"
    statistics = iot.get_statistics(queryString="*", aggregationField="attributes.temperature")["statistics"]
    assert (statistics["count"], statistics["maximum"], statistics["sum"]) == (6, 40.0, 101.0)
    assert iot.get_cardinality(queryString="*", aggregationField="attributes.floor")["cardinality"] == 3
    percentiles = iot.get_percentiles(queryString="*", aggregationField="attributes.temperature", percents=[50])
    assert percentiles["percentiles"] == [{"percent": 50.0, "value": 15.0}]
    buckets = iot.get_buckets_aggregation(
        queryString="*", aggregationField="attributes.floor",
        bucketsAggregationType={"termsAggregation": {"maxBuckets": 2}},
    )  # fmt: skip
    assert buckets["buckets"] == [{"keyValue": "0", "count": 2}, {"keyValue": "1", "count": 2}]
    iot.delete_dynamic_thing_group(thingGroupName="warm")


def test_shadows_are_indexed(edge):
    iot, data = edge.client(), edge.client("iot-data")
    iot.create_thing(thingName="lamp")
    iot.update_indexing_configuration(
        thingIndexingConfiguration={
            "thingIndexingMode": "REGISTRY_AND_SHADOW",
            "namedShadowIndexingMode": "ON",
            "filter": {"namedShadowNames": ["fast"]},
        }
    )
    state = {"state": {"reported": {"hue": 10}, "desired": {"hue": 20}}}
    data.update_thing_shadow(thingName="lamp", payload=json.dumps(state))
    for name in ("fast", "slow"):
        payload = json.dumps({"state": {"reported": {"n": 1}}})
        data.update_thing_shadow(thingName="lamp", shadowName=name, payload=payload)

    def count(query):
        return len(iot.search_index(queryString=query)["things"])

    assert count("shadow.reported.hue:10 AND shadow.desired.hue>15") == 1
    assert count("shadow.hasDelta:true") == 1
    assert count("shadow.name.fast.reported.n:1") == 1
    assert count("shadow.name.slow.reported.n:1") == 0
    shown = json.loads(iot.search_index(queryString="*")["things"][0]["shadow"])
    assert shown["reported"] == {"hue": 10}


@pytest.mark.parametrize("given", [[{"a": "1"}, {"b": "2"}], '[{"a": "1"}, {"b": "2"}]'])
def test_user_properties_may_be_a_list_or_the_json_string_of_one(edge, given):
    data = edge.client("iot-data")
    data.publish(topic="t", payload=b"x", retain=True, userProperties=given)
    assert json.loads(data.get_retained_message(topic="t")["userProperties"]) == [{"a": "1"}, {"b": "2"}]


def test_billing_groups_and_tags(edge):
    iot = edge.client()
    made = iot.create_billing_group(billingGroupName="b", tags=[{"Key": "k", "Value": "v"}])
    iot.create_thing(thingName="t", billingGroupName="b")
    assert iot.list_things_in_billing_group(billingGroupName="b")["things"] == ["t"]
    iot.remove_thing_from_billing_group(billingGroupName="b", thingName="t")
    iot.add_thing_to_billing_group(billingGroupName="b", thingName="t")
    assert iot.describe_thing(thingName="t")["billingGroupName"] == "b"
    assert iot.update_billing_group(billingGroupName="b", billingGroupProperties={})["version"] == 2
    arn = made["billingGroupArn"]
    iot.tag_resource(resourceArn=arn, tags=[{"Key": "a", "Value": "1"}])
    iot.untag_resource(resourceArn=arn, tagKeys=["k"])
    assert iot.list_tags_for_resource(resourceArn=arn)["tags"] == [{"Key": "a", "Value": "1"}]
    assert code_of(iot.list_tags_for_resource, resourceArn="arn:aws:s3:::b") == "InvalidRequestException"
    assert [each["groupName"] for each in iot.list_billing_groups()["billingGroups"]] == ["b"]
    iot.delete_billing_group(billingGroupName="b")
    assert "billingGroupName" not in iot.describe_thing(thingName="t")


def test_certificates(edge):
    iot = edge.client()
    made = iot.create_keys_and_certificate()
    identifier, arn = made["certificateId"], made["certificateArn"]
    assert made["keyPair"]["PrivateKey"].startswith("-----BEGIN RSA PRIVATE KEY-----")
    described = iot.describe_certificate(certificateId=identifier)["certificateDescription"]
    assert described["status"] == "INACTIVE"
    assert described["validity"]["notAfter"] > datetime.now(UTC)
    iot.update_certificate(certificateId=identifier, newStatus="ACTIVE")
    assert code_of(iot.delete_certificate, certificateId=identifier) == "CertificateStateException"
    iot.create_thing(thingName="t")
    iot.attach_thing_principal(thingName="t", principal=arn)
    assert code_of(iot.delete_thing, thingName="t") == "InvalidRequestException"
    iot.update_certificate(certificateId=identifier, newStatus="INACTIVE")
    assert code_of(iot.delete_certificate, certificateId=identifier) == "DeleteConflictException"
    assert iot.list_principal_things(principal=arn)["things"] == ["t"]
    assert iot.list_thing_principals(thingName="t")["principals"] == [arn]
    iot.detach_thing_principal(thingName="t", principal=arn)
    iot.attach_thing_principal(thingName="t", principal=arn, thingPrincipalType="EXCLUSIVE_THING")
    iot.create_thing(thingName="u")
    assert code_of(iot.attach_thing_principal, thingName="u", principal=arn) == "InvalidRequestException"
    objects = iot.list_thing_principals_v2(thingName="t")["thingPrincipalObjects"]
    assert objects == [{"principal": arn, "thingPrincipalType": "EXCLUSIVE_THING"}]
    iot.detach_thing_principal(thingName="t", principal=arn)
    iot.create_policy(policyName="p", policyDocument=ALLOW)
    iot.attach_policy(policyName="p", target=arn)
    assert code_of(iot.delete_certificate, certificateId=identifier) == "DeleteConflictException"
    iot.delete_certificate(certificateId=identifier, forceDelete=True)
    for _ in range(3):
        iot.create_keys_and_certificate()
    assert len(pages(iot.list_certificates, "certificates", size="pageSize", token="marker")) == 3
    ascending = [each["creationDate"] for each in iot.list_certificates(ascendingOrder=True)["certificates"]]
    assert ascending == sorted(ascending)


def test_certificates_from_a_request(edge):
    iot = edge.client()
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "dev")])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    pem = request.public_bytes(serialization.Encoding.PEM).decode()
    made = iot.create_certificate_from_csr(certificateSigningRequest=pem, setAsActive=True)
    certificate = x509.load_pem_x509_certificate(made["certificatePem"].encode())
    assert certificate.public_key() == key.public_key()
    assert made["certificateId"] == certificate.fingerprint(hashes.SHA256()).hex()
    assert code_of(iot.create_certificate_from_csr, certificateSigningRequest="x") == "InvalidRequestException"


def test_certificate_authorities(edge):
    iot = edge.client()
    key, ca = make_ca()
    assert code_of(iot.register_ca_certificate, caCertificate=ca) == "InvalidRequestException"
    code = iot.get_registration_code()["registrationCode"]
    assert iot.get_registration_code()["registrationCode"] == code
    own = ec.generate_private_key(ec.SECP256R1())
    wrong = sign("wrong", own, "Test CA", key)
    assert (
        code_of(iot.register_ca_certificate, caCertificate=ca, verificationCertificate=wrong)
        == "RegistrationCodeValidationException"
    )
    proof = sign(code, own, "Test CA", key)
    made = iot.register_ca_certificate(caCertificate=ca, verificationCertificate=proof, setAsActive=True)
    device = sign("device", own, "Test CA", key)
    registered = iot.register_certificate(certificatePem=device, caCertificatePem=ca, status="ACTIVE")
    assert code_of(iot.register_certificate, certificatePem=device, status="ACTIVE") == "ResourceAlreadyExistsException"
    of_ca = iot.list_certificates_by_ca(caCertificateId=made["certificateId"])["certificates"]
    assert [each["certificateId"] for each in of_ca] == [registered["certificateId"]]
    assert code_of(iot.delete_ca_certificate, certificateId=made["certificateId"]) == "CertificateStateException"
    iot.update_ca_certificate(
        certificateId=made["certificateId"], newStatus="INACTIVE", newAutoRegistrationStatus="ENABLE"
    )
    description = iot.describe_ca_certificate(certificateId=made["certificateId"])["certificateDescription"]
    assert (description["status"], description["autoRegistrationStatus"]) == ("INACTIVE", "ENABLE")
    assert len(iot.list_ca_certificates()["certificates"]) == 1
    iot.delete_ca_certificate(certificateId=made["certificateId"])
    alone = sign("alone", own, "Nobody", ec.generate_private_key(ec.SECP256R1()))
    assert code_of(iot.register_certificate, certificatePem=alone) == "CertificateValidationException"
    assert iot.register_certificate_without_ca(certificatePem=alone, status="ACTIVE")["certificateId"]


def test_certificate_transfers(edge):
    iot = edge.client()
    made = iot.create_keys_and_certificate()
    identifier = made["certificateId"]
    iot.transfer_certificate(certificateId=identifier, targetAwsAccount="111111111111", transferMessage="take it")
    assert len(iot.list_outgoing_certificates()["outgoingCertificates"]) == 1
    iot.cancel_certificate_transfer(certificateId=identifier)
    iot.transfer_certificate(certificateId=identifier, targetAwsAccount="111111111111")
    iot.reject_certificate_transfer(certificateId=identifier, rejectReason="no")
    iot.transfer_certificate(certificateId=identifier, targetAwsAccount="111111111111")
    iot.accept_certificate_transfer(certificateId=identifier, setAsActive=True)
    description = iot.describe_certificate(certificateId=identifier)["certificateDescription"]
    assert (description["status"], description["ownedBy"]) == ("ACTIVE", "111111111111")
    assert code_of(iot.accept_certificate_transfer, certificateId=identifier) == "TransferAlreadyCompletedException"


def test_policies(edge):
    iot = edge.client()
    assert code_of(iot.create_policy, policyName="p", policyDocument="{}") == "MalformedPolicyException"
    long = json.dumps({"Version": "2012-10-17", "Statement": [json.loads(ALLOW)["Statement"]] * 60})
    assert code_of(iot.create_policy, policyName="p", policyDocument=long) == "MalformedPolicyException"
    made = iot.create_policy(policyName="p", policyDocument=ALLOW, tags=[{"Key": "a", "Value": "b"}])
    assert made["policyVersionId"] == "1"
    assert iot.list_tags_for_resource(resourceArn=made["policyArn"])["tags"]
    for _ in range(4):
        iot.create_policy_version(policyName="p", policyDocument=ALLOW, setAsDefault=False)
    assert code_of(iot.create_policy_version, policyName="p", policyDocument=ALLOW) == "VersionsLimitExceededException"
    iot.set_default_policy_version(policyName="p", policyVersionId="3")
    assert code_of(iot.delete_policy_version, policyName="p", policyVersionId="3") == "DeleteConflictException"
    for version in "1245":
        iot.delete_policy_version(policyName="p", policyVersionId=version)
    assert [each["versionId"] for each in iot.list_policy_versions(policyName="p")["policyVersions"]] == ["3"]
    assert iot.get_policy(policyName="p")["defaultVersionId"] == "3"
    assert iot.get_policy_version(policyName="p", policyVersionId="3")["isDefaultVersion"] is True
    certificate = iot.create_keys_and_certificate(setAsActive=True)["certificateArn"]
    iot.attach_policy(policyName="p", target=certificate)
    iot.attach_principal_policy(policyName="p", principal=certificate)
    assert iot.list_targets_for_policy(policyName="p")["targets"] == [certificate]
    assert iot.list_policy_principals(policyName="p")["principals"] == [certificate]
    assert [each["policyName"] for each in iot.list_attached_policies(target=certificate)["policies"]] == ["p"]
    assert [each["policyName"] for each in iot.list_principal_policies(principal=certificate)["policies"]] == ["p"]
    assert code_of(iot.delete_policy, policyName="p") == "DeleteConflictException"
    assert code_of(iot.attach_policy, policyName="p", target=certificate[:-1] + "x") == "ResourceNotFoundException"
    iot.detach_policy(policyName="p", target=certificate)
    iot.delete_policy(policyName="p")
    assert code_of(iot.get_policy, policyName="p") == "ResourceNotFoundException"


def test_authorization_is_explained(edge):
    iot = edge.client()
    document = {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": "iot:Publish", "Resource": "arn:aws:iot:*:*:topic/${iot:ClientId}/*"},
            {"Effect": "Deny", "Action": "iot:Publish", "Resource": "arn:aws:iot:*:*:topic/*/secret"},
        ],
    }
    iot.create_policy(policyName="p", policyDocument=json.dumps(document))
    principal = iot.create_keys_and_certificate(setAsActive=True)["certificateArn"]
    iot.attach_policy(policyName="p", target=principal)
    arn = "arn:aws:iot:us-east-1:000000000000:topic/"
    answer = iot.test_authorization(
        principal=principal,
        clientId="c",
        authInfos=[
            {"actionType": "PUBLISH", "resources": [arn + name for name in names]}
            for names in (["c/a"], ["c/b", "d/a"], ["d/a", "c/secret"])
        ],
    )
    decisions = [each["authDecision"] for each in answer["authResults"]]
    assert decisions == ["ALLOWED", "IMPLICIT_DENY", "EXPLICIT_DENY"]
    assert answer["authResults"][2]["denied"]["explicitDeny"]["policies"][0]["policyName"] == "p"


def test_role_aliases_settings_and_domains(edge):
    iot = edge.client()
    role = "arn:aws:iam::000000000000:role/role"
    iot.create_role_alias(roleAlias="r", roleArn=role)
    assert iot.describe_role_alias(roleAlias="r")["roleAliasDescription"]["credentialDurationSeconds"] == 3600
    iot.update_role_alias(roleAlias="r", credentialDurationSeconds=900)
    assert iot.list_role_aliases()["roleAliases"] == ["r"]
    iot.delete_role_alias(roleAlias="r")
    assert iot.describe_endpoint(endpointType="iot:Data-ATS")["endpointAddress"] == f"localhost:{edge.iot.https_port}"
    assert code_of(iot.describe_endpoint, endpointType="x") == "InvalidRequestException"
    iot.update_event_configurations(eventConfigurations={"JOB": {"Enabled": True}})
    assert iot.describe_event_configurations()["eventConfigurations"]["JOB"] == {"Enabled": True}
    iot.update_event_configurations(eventConfigurations={"POLICY": {"Enabled": True}, "THING": {"Enabled": True}})
    assert "event configurations: no events are published for POLICY" in [each.text for each in edge.logs]
    target = {"targetType": "THING_GROUP", "targetName": "g"}
    assert code_of(iot.get_v2_logging_options) == "NotConfiguredException"
    assert code_of(iot.list_v2_logging_levels) == "NotConfiguredException"
    assert code_of(iot.set_v2_logging_level, logTarget=target, logLevel="DEBUG") == "NotConfiguredException"
    iot.set_v2_logging_options(roleArn=role, defaultLogLevel="INFO")
    assert iot.get_v2_logging_options()["defaultLogLevel"] == "INFO"
    iot.set_v2_logging_level(logTarget=target, logLevel="DEBUG")
    assert iot.list_v2_logging_levels()["logTargetConfigurations"] == [
        {"logTarget": {"targetType": "DEFAULT"}, "logLevel": "INFO"},
        {"logTarget": target, "logLevel": "DEBUG"},
    ]
    iot.delete_v2_logging_level(targetType="THING_GROUP", targetName="g")
    iot.set_logging_options(loggingOptionsPayload={"roleArn": role, "logLevel": "ERROR"})
    assert iot.get_logging_options()["logLevel"] == "ERROR"
    ocsp, callback = {"enableOCSPCheck": True}, {"clientCertificateCallbackArn": role}
    for settings in ({"serverCertificateConfig": ocsp}, {"clientCertificateConfig": callback}):
        assert code_of(iot.create_domain_configuration, domainConfigurationName="d", **settings) == "NotEmulated"
    iot.create_domain_configuration(domainConfigurationName="d", authenticationType="CUSTOM_AUTH")
    assert "domain configuration d: authenticationType is kept and not enforced" in [each.text for each in edge.logs]
    domain = iot.describe_domain_configuration(domainConfigurationName="d")
    assert (domain["domainConfigurationStatus"], domain["serverCertificates"]) == ("ENABLED", [])
    assert code_of(iot.delete_domain_configuration, domainConfigurationName="d") == "InvalidRequestException"
    iot.update_domain_configuration(domainConfigurationName="d", domainConfigurationStatus="DISABLED")
    names = [each["domainConfigurationName"] for each in iot.list_domain_configurations()["domainConfigurations"]]
    assert names == ["d", "iot:CredentialProvider", "iot:Data-ATS", "iot:Jobs"]
    endpoint = iot.describe_domain_configuration(domainConfigurationName="iot:Data-ATS")
    assert (endpoint["domainType"], endpoint["serviceType"]) == ("ENDPOINT", "DATA")
    change = {"domainConfigurationName": "iot:Data-ATS", "domainConfigurationStatus": "DISABLED"}
    assert code_of(iot.update_domain_configuration, **change) == "InvalidRequestException"
    iot.delete_domain_configuration(domainConfigurationName="d")


def test_authorizers(edge):
    iot = edge.client()
    key = rsa.generate_private_key(65537, 2048)
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    function = "arn:aws:lambda:us-east-1:000000000000:function:auth"
    assert (
        code_of(iot.create_authorizer, authorizerName="a", authorizerFunctionArn=function) == "InvalidRequestException"
    )
    iot.create_authorizer(
        authorizerName="a",
        authorizerFunctionArn=function,
        tokenKeyName="token",
        tokenSigningPublicKeys={"k": public.decode()},
        status="ACTIVE",
    )
    seen = []

    def auth(payload):
        seen.append(json.loads(payload))
        return json.dumps(
            {"isAuthenticated": True, "principalId": "me", "disconnectAfterInSeconds": 300,
             "refreshAfterInSeconds": 300, "policyDocuments": [ALLOW]}
        ).encode()  # fmt: skip

    edge.functions["auth"] = auth
    import base64

    signature = base64.b64encode(key.sign(b"tok", padding.PKCS1v15(), hashes.SHA256())).decode()
    answer = iot.test_invoke_authorizer(
        authorizerName="a", token="tok", tokenSignature=signature,
        mqttContext={"username": "u", "password": b"p", "clientId": "c"},
    )  # fmt: skip
    assert (answer["isAuthenticated"], answer["principalId"]) == (True, "me")
    assert seen[0]["signatureVerified"] is True
    assert seen[0]["protocolData"]["mqtt"] == {"username": "u", "password": "cA==", "clientId": "c"}
    iot.set_default_authorizer(authorizerName="a")
    assert iot.describe_default_authorizer()["authorizerDescription"]["authorizerName"] == "a"
    assert code_of(iot.delete_authorizer, authorizerName="a") == "DeleteConflictException"
    iot.clear_default_authorizer()
    iot.update_authorizer(authorizerName="a", status="INACTIVE")
    assert [each["authorizerName"] for each in iot.list_authorizers(status="INACTIVE")["authorizers"]] == ["a"]
    iot.delete_authorizer(authorizerName="a")
    edge.functions["auth"] = lambda payload: b"nonsense"
    iot.create_authorizer(authorizerName="b", authorizerFunctionArn=function, signingDisabled=True, status="ACTIVE")
    assert code_of(iot.test_invoke_authorizer, authorizerName="b") == "InvalidResponseException"


def test_rules_and_destinations(edge):
    iot = edge.client()
    payload = {"sql": "SELECT * FROM 'a/#'", "actions": [], "description": "d"}
    for name in ("one", "two", "three"):
        iot.create_topic_rule(ruleName=name, topicRulePayload=payload)
    assert code_of(iot.create_topic_rule, ruleName="one", topicRulePayload=payload) == "ResourceAlreadyExistsException"
    iot.disable_topic_rule(ruleName="one")
    assert [each["ruleName"] for each in iot.list_topic_rules(ruleDisabled=True)["rules"]] == ["one"]
    iot.enable_topic_rule(ruleName="one")
    iot.replace_topic_rule(ruleName="one", topicRulePayload={**payload, "sql": "SELECT a FROM 'b'"})
    assert iot.get_topic_rule(ruleName="one")["rule"]["sql"] == "SELECT a FROM 'b'"
    assert [each["ruleName"] for each in iot.list_topic_rules(topic="a/#")["rules"]] == ["three", "two"]
    assert len(pages(iot.list_topic_rules, "rules")) == 3
    assert code_of(iot.get_topic_rule, ruleName="none") == "UnauthorizedException"
    loop = {
        "sql": "SELECT * FROM 'a/#'",
        "actions": [{"republish": {"topic": "a/b", "roleArn": "arn:aws:iam::1:role/r"}}],
    }
    assert code_of(iot.create_topic_rule, ruleName="loop", topicRulePayload=loop) == "InvalidRequestException"
    iot.delete_topic_rule(ruleName="one")
    configuration = {"httpUrlConfiguration": {"confirmationUrl": "http://127.0.0.1:9/x"}}
    made = iot.create_topic_rule_destination(destinationConfiguration=configuration)["topicRuleDestination"]
    assert made["status"] == "IN_PROGRESS"
    assert iot.get_topic_rule_destination(arn=made["arn"])["topicRuleDestination"]["arn"] == made["arn"]
    assert len(iot.list_topic_rule_destinations()["destinationSummaries"]) == 1
    iot.delete_topic_rule_destination(arn=made["arn"])
    assert code_of(iot.get_topic_rule_destination, arn=made["arn"]) == "UnauthorizedException"


def test_what_is_not_emulated_says_so(edge):
    assert code_of(edge.client().list_security_profiles) == "NotEmulated"
