"""Fleet provisioning with the SDK's identity client over mutual TLS, RegisterThing by boto3, hooks, JITP."""

import asyncio
import json
import queue
from datetime import UTC, datetime, timedelta

import cbor2
import pytest
from awscrt import mqtt
from awsiot import iotidentity, mqtt_connection_builder
from botocore.exceptions import ClientError
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from foreshore.errors import AwsError
from foreshore.iot.device_server import limited
from foreshore.seams import Publication

QOS = mqtt.QoS.AT_LEAST_ONCE
POLICY = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": "iot:*", "Resource": "*"}],
}
ID = "AWS::IoT::Certificate::Id"
TEMPLATE = {
    "Parameters": {"Serial": {"Type": "String"}, ID: {"Type": "String"}},
    "Resources": {
        "thing": {
            "Type": "AWS::IoT::Thing",
            "Properties": {
                "ThingName": {"Fn::Join": ["", ["pump_", {"Ref": "Serial"}]]},
                "AttributePayload": {"serial": {"Ref": "Serial"}},
            },
            "OverrideSettings": {"AttributePayload": "MERGE"},
        },
        "cert": {"Type": "AWS::IoT::Certificate", "Properties": {"CertificateId": {"Ref": ID}, "Status": "Active"}},
        "policy": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyDocument": json.dumps(POLICY)}},
    },
    "DeviceConfiguration": {"serial": {"Ref": "Serial"}},
}


def make_template(iot, **more):
    return iot.create_provisioning_template(
        templateName="fleet", templateBody=json.dumps(TEMPLATE), enabled=True,
        provisioningRoleArn="arn:aws:iam::000000000000:role/r", **more,
    )  # fmt: skip


def connect(edge, folder, certificate, key, client_id):
    (folder / f"{client_id}.pem").write_text(certificate)
    (folder / f"{client_id}.key").write_text(key)
    connection = mqtt_connection_builder.mtls_from_path(
        endpoint="localhost", port=edge.iot.mqtts_port, cert_filepath=str(folder / f"{client_id}.pem"),
        pri_key_filepath=str(folder / f"{client_id}.key"), ca_filepath=str(edge.iot.authority.ca_path),
        client_id=client_id,
    )  # fmt: skip
    connection.connect().result(20)
    return connection


def key_pem(key):
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def named(common_name):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def csr(key):
    made = x509.CertificateSigningRequestBuilder().subject_name(named("dev")).sign(key, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM).decode()


def ask(edge, topic, payload, form="json", principal=None):
    """Send a request as a service would and give what comes on accepted or rejected."""
    answers = queue.Queue()

    async def send():
        handles = [
            edge.iot.broker.add_listener(f"{topic}/{word}", lambda p: answers.put((p.topic.rpartition("/")[2], p)))
            for word in ("accepted", "rejected")
        ]
        edge.iot.broker.publish(Publication(topic, payload, principal=principal))
        return handles

    edge.run(send())
    word, publication = answers.get(timeout=20)
    return word, (cbor2.loads if form == "cbor" else json.loads)(publication.payload)


@pytest.mark.parametrize("with_csr", [False, True])
def test_the_sdks_identity_client_with_a_claim(edge, tmp_path, with_csr):
    iot = edge.client()
    make_template(iot)
    claim = iot.create_provisioning_claim(templateName="fleet")
    assert timedelta(minutes=4) < claim["expiration"] - datetime.now(UTC) <= timedelta(minutes=5)
    connection = connect(edge, tmp_path, claim["certificatePem"], claim["keyPair"]["PrivateKey"], "claimer")
    client = iotidentity.IotIdentityClient(connection)
    created, registered, rejected = queue.Queue(), queue.Queue(), queue.Queue()
    fleet = iotidentity.RegisterThingSubscriptionRequest(template_name="fleet")
    client.subscribe_to_register_thing_accepted(fleet, QOS, registered.put)[0].result(20)
    client.subscribe_to_register_thing_rejected(fleet, QOS, rejected.put)[0].result(20)
    own = ec.generate_private_key(ec.SECP256R1())
    if with_csr:
        subscription = iotidentity.CreateCertificateFromCsrSubscriptionRequest()
        client.subscribe_to_create_certificate_from_csr_accepted(subscription, QOS, created.put)[0].result(20)
        request = iotidentity.CreateCertificateFromCsrRequest(certificate_signing_request=csr(own))
        client.publish_create_certificate_from_csr(request, QOS).result(20)
    else:
        subscription = iotidentity.CreateKeysAndCertificateSubscriptionRequest()
        client.subscribe_to_create_keys_and_certificate_accepted(subscription, QOS, created.put)[0].result(20)
        client.publish_create_keys_and_certificate(iotidentity.CreateKeysAndCertificateRequest(), QOS).result(20)
    made = created.get(timeout=20)
    pending = iot.describe_certificate(certificateId=made.certificate_id)["certificateDescription"]
    assert pending["status"] == "PENDING_ACTIVATION"

    request = iotidentity.RegisterThingRequest(
        template_name="fleet", certificate_ownership_token=made.certificate_ownership_token, parameters={"Serial": "7"}
    )
    client.publish_register_thing(request, QOS).result(20)
    answer = registered.get(timeout=20)
    assert (answer.thing_name, answer.device_configuration) == ("pump_7", {"serial": "7"})
    assert iot.describe_thing(thingName="pump_7")["attributes"] == {"serial": "7"}
    client.publish_register_thing(request, QOS).result(20)
    refused = rejected.get(timeout=20)
    assert (refused.status_code, refused.error_code) == (400, "InvalidCertificateOwnershipToken")
    connection.disconnect().result(20)

    key = key_pem(own) if with_csr else made.private_key
    connect(edge, tmp_path, made.certificate_pem, key, "pump_7").disconnect().result(20)


def test_cbor_and_refusals(edge):
    make_template(edge.client())
    word, made = ask(edge, "$aws/certificates/create/cbor", b"", "cbor")
    assert word == "accepted"
    topic = "$aws/provisioning-templates/fleet/provision/cbor"
    request = {"certificateOwnershipToken": made["certificateOwnershipToken"]}
    word, answer = ask(edge, topic, cbor2.dumps(request), "cbor")
    assert (word, answer["statusCode"], answer["errorCode"]) == ("rejected", 400, "InvalidRequest")
    word, answer = ask(edge, topic, cbor2.dumps({**request, "parameters": {"Serial": "9"}}), "cbor")
    assert (word, answer["thingName"]) == ("accepted", "pump_9")
    assert ask(edge, "$aws/certificates/create-from-csr/json", b"{}")[1]["errorCode"] == "InvalidCsr"
    assert ask(edge, "$aws/certificates/create-from-csr/json", b"{")[0] == "rejected"
    assert ask(edge, "$aws/certificates/create-from-csr/cbor", b"\x81", "cbor")[0] == "rejected"
    assert ask(edge, "$aws/provisioning-templates/none/provision/json", b"{}")[1]["statusCode"] == 404


def test_a_hook_allows_denies_and_overrides(edge):
    hook = {"payloadVersion": "2020-04-01", "targetArn": "arn:aws:lambda:us-east-1:000000000000:function:hook"}
    with pytest.raises(ClientError, match="payload version"):
        make_template(edge.client(), preProvisioningHook={**hook, "payloadVersion": "2019-01-01"})
    make_template(edge.client(), preProvisioningHook=hook)
    events, topic = [], "$aws/provisioning-templates/fleet/provision/json"
    made = ask(edge, "$aws/certificates/create/json", b"")[1]
    request = {"certificateOwnershipToken": made["certificateOwnershipToken"], "parameters": {"Serial": "1"}}
    for answer in (b'{"allowProvisioning": false}', b"no JSON", b"{}", b'{"allowProvisioning": "true"}'):
        edge.functions["hook"] = lambda event, answer=answer: events.append(json.loads(event)) or answer
        word, refused = ask(edge, topic, json.dumps(request).encode())
        assert (word, refused["statusCode"], refused["errorCode"]) == ("rejected", 403, "AccessDenied")
    edge.functions["hook"] = lambda event: b'{"allowProvisioning": true, "parameterOverrides": {"Serial": "42"}}'
    assert ask(edge, topic, json.dumps(request).encode())[1]["thingName"] == "pump_42"
    assert events[0]["certificateId"] == made["certificateId"]
    assert events[0]["parameters"] == {"Serial": "1"}
    assert events[0]["templateArn"].endswith(":provisioningtemplate/fleet")


def test_times_over(edge):
    iot = edge.client()
    make_template(iot)
    claim = iot.create_provisioning_claim(templateName="fleet")["certificateId"]
    made = ask(edge, "$aws/certificates/create/json", b"")[1]

    async def later(seconds):
        ground, real = edge.iot.ground, edge.iot.ground.clock
        ground.clock = lambda: real() + seconds
        edge.iot.provisioning.tick()
        ground.clock = real
        return claim in edge.iot.certificates.kind, made["certificateId"] in edge.iot.certificates.kind

    assert edge.run(later(290)) == (True, True)
    assert edge.run(later(301)) == (False, True)
    assert edge.run(later(3601)) == (False, False)


def test_register_thing_and_versions(edge):
    iot = edge.client()
    body = json.loads(json.dumps(TEMPLATE))
    body["Parameters"] = {"Serial": {"Type": "String"}, "CSR": {"Type": "String"}}
    body["Resources"]["cert"]["Properties"] = {"CertificateSigningRequest": {"Ref": "CSR"}}
    given = {"Serial": "3", "CSR": csr(ec.generate_private_key(ec.SECP256R1()))}
    answer = iot.register_thing(templateBody=json.dumps(body), parameters=given)
    assert answer["certificatePem"].startswith("-----BEGIN CERTIFICATE")
    assert set(answer["resourceArns"]) == {"thing", "cert", "policy"}
    assert iot.list_thing_principals(thingName="pump_3")["principals"] == [answer["resourceArns"]["cert"]]
    with pytest.raises(iot.exceptions.InvalidRequestException):
        iot.register_thing(templateBody=json.dumps(body), parameters={})
    missing = {"Type": "AWS::IoT::Thing", "Properties": {"ThingName": "t", "ThingTypeName": "none"}}
    with pytest.raises(iot.exceptions.ResourceRegistrationFailureException, match="Thing type none not found"):
        iot.register_thing(templateBody=json.dumps({"Resources": {"thing": missing}}), parameters={})
    for wrong in ({"AttributePayload": {"a": 1}}, {"ThingGroups": "x"}, {"ThingName": "a b"}):
        thing = {"Type": "AWS::IoT::Thing", "Properties": {"ThingName": "t", **wrong}}
        with pytest.raises(iot.exceptions.InvalidRequestException):
            iot.register_thing(templateBody=json.dumps({"Resources": {"thing": thing}}), parameters={})

    make_template(iot)
    with pytest.raises(iot.exceptions.ResourceAlreadyExistsException):
        make_template(iot)
    made = iot.create_provisioning_template_version(
        templateName="fleet", templateBody=json.dumps(body), setAsDefault=True
    )
    assert (made["versionId"], made["isDefaultVersion"]) == (2, True)
    assert json.loads(iot.describe_provisioning_template(templateName="fleet")["templateBody"]) == body
    with pytest.raises(iot.exceptions.DeleteConflictException):
        iot.delete_provisioning_template(templateName="fleet")
    with pytest.raises(iot.exceptions.DeleteConflictException):
        iot.delete_provisioning_template_version(templateName="fleet", versionId=2)
    iot.delete_provisioning_template_version(templateName="fleet", versionId=1)
    assert [v["versionId"] for v in iot.list_provisioning_template_versions(templateName="fleet")["versions"]] == [2]
    iot.update_provisioning_template(templateName="fleet", enabled=False)
    assert [t["enabled"] for t in iot.list_provisioning_templates()["templates"]] == [False]
    assert ask(edge, "$aws/provisioning-templates/fleet/provision/json", b"{}")[0] == "rejected"
    iot.delete_provisioning_template(templateName="fleet")
    with pytest.raises(iot.exceptions.ResourceNotFoundException):
        iot.describe_provisioning_template(templateName="fleet")


def signed(subject, key, issuer, issuer_key, is_ca):
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=2))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .sign(issuer_key, hashes.SHA256())
    )  # fmt: skip


@pytest.mark.parametrize("by_name", [False, True])
def test_just_in_time_provisioning(edge, tmp_path, by_name):
    iot = edge.client()
    body = json.loads(json.dumps(TEMPLATE))
    common_name = "AWS::IoT::Certificate::CommonName"
    body["Parameters"] = {common_name: {"Type": "String"}, ID: {"Type": "String"}}
    body["Resources"]["thing"]["Properties"] = {"ThingName": {"Ref": common_name}}
    del body["DeviceConfiguration"]
    role = "arn:aws:iam::000000000000:role/r"
    config = {"templateBody": json.dumps(body), "roleArn": role}
    if by_name:
        iot.create_provisioning_template(
            templateName="jit", templateBody=json.dumps(body), enabled=True, provisioningRoleArn=role, type="JITP"
        )
        config = {"templateName": "jit"}
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca = signed(named("Factory"), ca_key, named("Factory"), ca_key, True)
    iot.register_ca_certificate(
        caCertificate=ca.public_bytes(serialization.Encoding.PEM).decode(), certificateMode="SNI_ONLY",
        setAsActive=True, allowAutoRegistration=True, registrationConfig=config,
    )  # fmt: skip
    pem = signed(named("lathe"), key, named("Factory"), ca_key, False).public_bytes(serialization.Encoding.PEM).decode()
    with pytest.raises(Exception, match="AWS_ERROR"):
        connect(edge, tmp_path, pem, key_pem(key), "lathe")
    assert iot.list_thing_principals(thingName="lathe")["principals"]
    connect(edge, tmp_path, pem, key_pem(key), "lathe").disconnect().result(20)


def test_an_ownership_token_serves_the_principal_that_got_it(edge):
    make_template(edge.client())
    made = ask(edge, "$aws/certificates/create/json", b"", principal="a" * 64)[1]
    request = {"certificateOwnershipToken": made["certificateOwnershipToken"], "parameters": {"Serial": "1"}}
    topic, payload = "$aws/provisioning-templates/fleet/provision/json", json.dumps(request).encode()
    word, refused = ask(edge, topic, payload, principal="b" * 64)
    assert (word, refused["errorCode"]) == ("rejected", "InvalidCertificateOwnershipToken")
    assert ask(edge, topic, payload, principal="a" * 64)[0] == "accepted"


def test_a_hook_that_fails_or_is_late_refuses(edge, monkeypatch):
    hook = {"payloadVersion": "2020-04-01", "targetArn": "arn:aws:lambda:us-east-1:000000000000:function:hook"}
    make_template(edge.client(), preProvisioningHook=hook)
    made = ask(edge, "$aws/certificates/create/json", b"")[1]
    request = {"certificateOwnershipToken": made["certificateOwnershipToken"], "parameters": {"Serial": "1"}}
    topic, payload = "$aws/provisioning-templates/fleet/provision/json", json.dumps(request).encode()

    async def missing(function, payload, **options):
        raise AwsError("ResourceNotFoundException", f"Function not found: {function}", 404)

    async def late(function, payload, **options):
        await asyncio.Event().wait()

    for invoke, words in ((missing, "Function not found"), (late, "did not answer within 0.01 s")):
        monkeypatch.setattr(edge.iot.provisioning, "_invoke", limited(invoke, 0.01))
        word, refused = ask(edge, topic, payload)
        assert (word, refused["statusCode"], refused["errorCode"]) == ("rejected", 403, "AccessDenied")
        assert words in refused["errorMessage"]


@pytest.mark.parametrize(
    ("settings", "attributes", "kind", "groups"),
    [
        ({}, {"a": "old"}, "pump", ["one"]),
        ({"AttributePayload": "DO_NOTHING", "ThingTypeName": "DO_NOTHING"}, {"a": "old"}, "pump", ["one"]),
        ({"AttributePayload": "REPLACE"}, {"b": "new"}, "pump", ["one"]),
        ({"AttributePayload": "MERGE"}, {"a": "old", "b": "new"}, "pump", ["one"]),
        ({"ThingTypeName": "REPLACE"}, {"a": "old"}, "valve", ["one"]),
        ({"ThingGroups": "REPLACE"}, {"a": "old"}, "pump", ["two"]),
        ({"ThingGroups": "MERGE"}, {"a": "old"}, "pump", ["one", "two"]),
        ({"AttributePayload": "FAIL"}, None, None, None),
        ({"ThingTypeName": "FAIL"}, None, None, None),
        ({"ThingGroups": "FAIL"}, None, None, None),
    ],
)
def test_override_settings(edge, settings, attributes, kind, groups):
    iot = edge.client()
    for name in ("pump", "valve"):
        iot.create_thing_type(thingTypeName=name)
    for name in ("one", "two"):
        iot.create_thing_group(thingGroupName=name)
    iot.create_thing(thingName="t", thingTypeName="pump", attributePayload={"attributes": {"a": "old"}})
    iot.add_thing_to_thing_group(thingName="t", thingGroupName="one")
    properties = {"ThingName": "t", "AttributePayload": {"b": "new"}, "ThingTypeName": "valve", "ThingGroups": ["two"]}
    thing = {"Type": "AWS::IoT::Thing", "Properties": properties, "OverrideSettings": settings}
    body = json.dumps({"Resources": {"thing": thing}})
    if attributes is None:
        with pytest.raises(ClientError, match="ResourceConflictsException"):
            iot.register_thing(templateBody=body)
        return
    iot.register_thing(templateBody=body)
    shown = iot.describe_thing(thingName="t")
    assert (shown["attributes"], shown["thingTypeName"]) == (attributes, kind)
    listed = iot.list_thing_groups_for_thing(thingName="t")["thingGroups"]
    assert [each["groupName"] for each in listed] == groups


def test_a_certificate_provider_signs(edge, tmp_path):
    iot = edge.client()
    function = "arn:aws:lambda:us-east-1:000000000000:function:signer"
    given = {"lambdaFunctionArn": function, "accountDefaultForOperations": ["CreateCertificateFromCsr"]}
    made = iot.create_certificate_provider(certificateProviderName="own", **given)
    with pytest.raises(iot.exceptions.LimitExceededException):
        iot.create_certificate_provider(certificateProviderName="other", **given)
    with pytest.raises(iot.exceptions.ResourceAlreadyExistsException):
        iot.create_certificate_provider(certificateProviderName="own", **given)
    assert iot.list_certificate_providers()["certificateProviders"] == [
        {"certificateProviderName": "own", "certificateProviderArn": made["certificateProviderArn"]}
    ]
    assert iot.describe_certificate_provider(certificateProviderName="own")["lambdaFunctionArn"] == function
    make_template(iot)
    authority, key, events = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1()), []

    def sign(event, public=None):
        events.append(json.loads(event))
        request = x509.load_pem_x509_csr(events[-1]["certificateSigningRequest"].encode())
        now = datetime.now(UTC)
        signed = (
            x509.CertificateBuilder()
            .subject_name(request.subject)
            .issuer_name(named("Own CA"))
            .public_key(public or request.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .sign(authority, hashes.SHA256())
        )
        pem = signed.public_bytes(serialization.Encoding.PEM).decode()
        return json.dumps({"certificatePem": pem}).encode()

    topic = "$aws/certificates/create-from-csr/json"
    payload = json.dumps({"certificateSigningRequest": csr(key)}).encode()
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    wrong = (
        lambda event: b"{}",
        lambda event: b"no JSON",
        lambda event: b'{"certificatePem": "no PEM"}',
        lambda event: sign(event, other),
    )
    for answer in wrong:
        edge.functions["signer"] = answer
        assert ask(edge, topic, payload)[0] == "rejected"
    edge.functions["signer"] = sign
    assert ask(edge, topic, b'{"certificateSigningRequest": "x"}')[1]["errorCode"] == "InvalidCsr"
    made = ask(edge, topic, payload, principal="claim")[1]
    assert (events[-1]["principalId"], events[-1]["clientId"]) == ("claim", None)
    request = {"certificateOwnershipToken": made["certificateOwnershipToken"], "parameters": {"Serial": "5"}}
    topic = "$aws/provisioning-templates/fleet/provision/json"
    assert ask(edge, topic, json.dumps(request).encode(), principal="claim")[1]["thingName"] == "pump_5"
    connect(edge, tmp_path, made["certificatePem"], key_pem(key), "pump_5").disconnect().result(20)
    iot.update_certificate_provider(certificateProviderName="own", lambdaFunctionArn=function)
    iot.delete_certificate_provider(certificateProviderName="own")
    made = ask(edge, "$aws/certificates/create-from-csr/json", payload)[1]
    assert (
        "Foreshore Local CA" in x509.load_pem_x509_certificate(made["certificatePem"].encode()).issuer.rfc4514_string()
    )
