"""The AWS CLI reference's own examples for iot, iot-data and iot-jobs-data, run by the AWS CLI in an order that makes
sense: every member that AWS shows is there, and looks alike (ARNs, ids, times, numbers)."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import awscli
import pytest
from awscli.clidriver import create_clidriver

from tests.e2e.conftest import start, stop

EXAMPLES = Path(awscli.__file__).parent / "examples"
ARN = "arn:aws:iot:us-west-2:123456789012:"
ANYTHING = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"iot:*","Resource":"*"}]}'
# What an example gets wrong, as the CLI or the service would tell it.
CORRECTIONS = [
    ('"{"', "'{\""), ('"}}"', "\"}}'"), ('"}}}"', "\"}}}'"),
    ("\\\n", " "), ("\\ \n", " "), (': 123456789012', ":123456789012"), (':094249569039:', ":123456789012:"),
    ('--domain-configuration-status "OK"', ""), ("arn:aws:iam:123456789012", "arn:aws:iam::123456789012"),
]  # fmt: skip
# Members that AWS's page shows and that are not in the answer, with the reason.
EXPLAINED = {
    "describe-default-authorizer authorizerName": "the model has authorizerDescription around it",
    "describe-default-authorizer authorizerArn": "the model has authorizerDescription around it",
    **{
        f"test-authorization authResults.{each}.policies.policy{name}": "a decision is one of the three"
        for each in ("allowed", "denied.explicitDeny", "denied.implicitDeny")
        for name in ("Name", "Arn")
    },
    "describe-job-execution execution.approximateSecondsBeforeTimedOut": "no timer runs while it is QUEUED",
}
CLI_REFUSES = ("usage:", "Unknown options", "Error parsing parameter", "Parameter validation failed", "Invalid JSON")


class Example:
    """An example: its command, the files that it reads, and the output that AWS shows."""

    def __init__(self, service: str, name: str, text: str) -> None:
        self.service, self.name = service, name
        head, _, rest = re.split(r"(\nOutput::|but [^\n]*``output.txt``[^\n]*::)", text + "\nOutput::", maxsplit=1)
        _, _, tail = head.partition("    aws ")
        command = re.split(r"\n\s*\n", tail)[0] if "BEGIN PUBLIC KEY" not in tail else tail
        for wrong, right in CORRECTIONS:
            command = command.replace(wrong, right)
        self.command = command if "BEGIN PUBLIC KEY" in command else command.replace("\n", " ")
        self.files = dict(re.findall(r"``([\w-]+\.json)``::\n\n((?:    .*\n|\s*\n)+)", text))
        self.output = rest.partition("\nOutput::")[0].strip()

    def document(self):
        """The shown output; None when it is no JSON."""
        text = re.sub(r",(\s*[}\]])", r"\1", re.split(r"\n\S", self.output)[0])
        try:
            return json.loads(text, strict=False)
        except ValueError:
            return None


def examples(service, name):
    text = (EXAMPLES / service / f"{name}.rst").read_text()
    parts = re.split(r"\n(?=\*\*.+?\*\*\n)|(?=The following ``get-(?:card|perc))", text)
    return [Example(service, name, part) for part in parts if re.search(r"^ *aws iot", part, re.MULTILINE)]


def keys(value, prefix=""):
    """The paths of a document's members; a list's are those of its items."""
    if isinstance(value, dict):
        return {
            found for key, child in value.items() for found in ({f"{prefix}{key}"} | keys(child, f"{prefix}{key}."))
        }
    if isinstance(value, list):
        return {found for child in value for found in keys(child, prefix)}
    return set()


KINDS = {
    r"arn:aws:\w+:[\w-]*:\d*:(\w+).*": "ARN of a ", r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}": "UUID",
    r"[0-9a-f]{64}": "64 hex digits", r"-----BEGIN ([A-Z ]+)-----(?s:.*)": "PEM of ",
}  # fmt: skip


def kind(value):
    """What a scalar looks like."""
    if isinstance(value, bool) or value is None:
        return str(type(value))
    if isinstance(value, (int, float)):
        return "time" if 1.2e9 < value < 2.8e9 else "number"
    for pattern, name in KINDS.items():
        found = re.fullmatch(pattern, value.strip())
        if found is not None:
            return name + (found[1] if found.groups() and name.endswith(" ") else "")
    return "time" if re.match(r"\d{4}-\d\d-\d\dT", value) else "text"


def unlike(shown, given, path=""):
    """The paths of members that look different."""
    if isinstance(shown, dict) and isinstance(given, dict):
        return [each for key in shown if key in given for each in unlike(shown[key], given[key], f"{path}.{key}")]
    if isinstance(shown, list) and isinstance(given, list):
        return unlike(shown[0], given[0], path + "[]") if shown and given else []
    wanted, got = kind(shown), kind(given)
    return [] if wanted in (got, "text") else [f"{path}: {wanted}, not {got}"]


class World:
    """What the examples find: the edge, and the identifiers that take the place of theirs."""

    def __init__(self, edge, folder, run):
        self.edge, self.folder, self.run = edge, folder, run
        self.iot = edge.boto3("iot")
        self.identifier, self.destination = "", ""
        self.compared, self.ran = 0, set()

    def openssl(self, *arguments):
        subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, capture_output=True)

    def adapt(self, text):
        text = re.sub(r"(?<![0-9A-Za-z+])[0-9a-f]{8,}(?:EXAMPLE)?[0-9a-f]{8,}(?![\w-])", self.identifier, text)
        return re.sub(r"\S*ruledestination/http/\S+", f'"{self.destination}"', text)

    def example(self, example):
        """Run an example's command; gives its arguments, the status, and what it printed."""
        for name, body in example.files.items():
            body = re.sub(r"\]\s*\n(\s*)\"roleArn", r'],\n\1"roleArn', body)
            Path(self.folder, name).write_text(re.sub(r"\}\s*\}\s*\}\s*$", "}}", body) if "template" in name else body)
        argv = shlex.split(self.adapt(example.command))
        if "--endpoint-url" in argv:
            del argv[argv.index("--endpoint-url") : argv.index("--endpoint-url") + 2]
        return argv, *self.run(argv)

    def check(self, name, number=0, service="iot"):
        """Run an example that succeeds and compare its answer; gives the answer."""
        found = examples(service, name)
        example = found[number]
        self.ran.add((service, name, number % len(found)))
        argv, status, out, err = self.example(example)
        assert status == 0, (argv, err)
        output = Path(self.folder, "output.txt")
        answer = json.loads(out) if out.strip() else json.loads(output.read_text()) if "output.txt" in argv else None
        if not example.output:
            assert answer in (None, {}), (name, answer)
            return answer
        shown = example.document()
        if shown is None:
            missing = set(re.findall(r'"(\w+)"\s*:', example.output)) - set(re.findall(r'"(\w+)":', json.dumps(answer)))
        else:
            missing = {f"{name} {each}" for each in keys(shown) - keys(answer)} - set(EXPLAINED)
            assert not unlike(shown, answer), (name, unlike(shown, answer))
        assert not missing, (name, missing, answer)
        self.compared += 1
        return answer

    def refuses(self, name, code, number=0, service="iot"):
        """Run an example that can't succeed here: there is one account, and no token or signature of AWS's."""
        self.ran.add((service, name, number))
        argv, status, _, err = self.example(examples(service, name)[number])
        assert status, argv
        assert code in err, err


@pytest.fixture
def world(tmp_path, monkeypatch, capsys):
    credentials = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-west-2"}
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "foreshore.toml").write_text("region = 'us-west-2'\naccount = '123456789012'\n")
    edge = start(folder, tmp_path / "home", "--only", "iot")
    for name, value in {**credentials, "AWS_ENDPOINT_URL": edge.ends["aws"], "AWS_PAGER": ""}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(folder)
    driver = create_clidriver()

    def run(argv):
        try:
            status = driver.main([*argv, "--output", "json"])
        except SystemExit as error:
            status = error.code
        said = capsys.readouterr()
        return status, said.out, said.err

    yield World(edge, folder, run)
    stop(edge)


def test_every_example_gives_what_aws_shows(world):
    for chapter in (registry, groups, certificates, authorities, policies, shadows, jobs, rules, templates, settings):
        chapter(world)
    searches(world)
    ends(world)
    assert world.compared >= 105
    # What is left is Device Defender, streams and OTA updates, or a command that the CLI itself refuses.
    for path in sorted(each for each in EXAMPLES.glob("iot*/*.rst") if each.parent.name in SERVICES):
        for number, example in enumerate(examples(path.parent.name, path.stem)):
            if (example.service, example.name, number) not in world.ran:
                _, status, _, err = world.example(example)
                assert status, (example.name, number)
                assert any(each in err for each in ("NotEmulated", *CLI_REFUSES)), (example.name, number, err)


SERVICES = ("iot", "iot-data", "iot-jobs-data")


def registry(world):
    iot = world.iot
    for name in ("create-thing-type", "describe-thing-type", "list-thing-types"):
        world.check(name)
    world.check("create-thing", 0)
    world.check("create-thing", 1)
    for name in ("MyOtherLightBulb", "ThirdBulb", "MyRPi", "bulb7", "MyRaspberryPi", "MotionSensor1"):
        iot.create_thing(thingName=name)
    world.check("describe-thing")
    world.check("update-thing")
    for number in range(len(examples("iot", "list-things"))):
        world.check("list-things", number)
    assert [each["thingName"] for each in world.check("list-things", 1)["things"]] == [
        "MyLightBulb",
        "MyOtherLightBulb",
    ]


def groups(world):
    iot = world.iot
    world.check("create-thing-group", 0)
    world.check("create-thing-group", 1)
    for name in ("DeadBulbs", "replaceableItems", "DefectiveBulbs"):
        iot.create_thing_group(thingGroupName=name)
    for name in ("describe-thing-group", "list-thing-groups", "update-thing-group", "add-thing-to-thing-group"):
        world.check(name)
    for thing in ("MyLightBulb", "bulb7"):
        iot.add_thing_to_thing_group(thingGroupName="DeadBulbs", thingName=thing)
    for name in (
        "list-things-in-thing-group", "list-thing-groups-for-thing", "update-thing-groups-for-thing",
        "remove-thing-from-thing-group", "tag-resource", "list-tags-for-resource", "delete-thing-group",
        "create-billing-group", "describe-billing-group", "list-billing-groups", "add-thing-to-billing-group",
    ):  # fmt: skip
        world.check(name)
    iot.add_thing_to_billing_group(billingGroupName="GroupOne", thingName="MyOtherLightBulb")
    iot.create_billing_group(billingGroupName="BillingGroupTwo")
    iot.add_thing_to_billing_group(billingGroupName="BillingGroupTwo", thingName="ThirdBulb")
    for name in (
        "list-things-in-billing-group", "remove-thing-from-billing-group", "update-billing-group",
        "delete-billing-group",
    ):  # fmt: skip
        world.check(name)


def certificates(world):
    world.openssl("req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout", "k", "-out", "certificate.csr", "-subj", "/CN=x")  # fmt: skip  # noqa: E501
    world.check("create-certificate-from-csr")
    made = world.check("create-keys-and-certificate")
    assert (world.folder / "myTest.cert.pem").read_text().strip() == made["certificatePem"].strip()
    world.identifier = made["certificateId"]
    world.iot.update_certificate(certificateId=world.identifier, newStatus="ACTIVE")
    world.check("describe-certificate")
    for number in range(len(examples("iot", "list-certificates"))):
        world.check("list-certificates", number)


def authorities(world):
    device = world.identifier
    code = world.check("get-registration-code")["registrationCode"]
    root = ("-keyout", "rootCA.key", "-out", "rootCA.pem", "-subj", "/CN=CA", "-addext", "basicConstraints=critical,CA:TRUE")  # fmt: skip  # noqa: E501
    world.openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "9", *root)
    for name, subject in (("verificationCert", code), ("deviceCert", "device")):
        request = ("-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={subject}")
        world.openssl("req", "-new", "-newkey", "rsa:2048", "-nodes", *request)
        signed = ("-CA", "rootCA.pem", "-CAkey", "rootCA.key", "-CAcreateserial", "-days", "9", "-out", f"{name}.pem")
        world.openssl("x509", "-req", "-in", f"{name}.csr", *signed)
    authority = world.identifier = world.check("register-ca-certificate")["certificateId"]
    for name in ("describe-ca-certificate", "list-ca-certificates", "update-ca-certificate"):
        world.check(name)
    registered = world.check("register-certificate")["certificateId"]
    world.check("list-certificates-by-ca")
    world.identifier = registered
    for name in (
        "update-certificate", "transfer-certificate", "list-outgoing-certificates", "cancel-certificate-transfer",
    ):  # fmt: skip
        world.check(name)
    for name in ("accept-certificate-transfer", "reject-certificate-transfer"):
        world.refuses(name, "TransferAlreadyCompletedException")
    world.check("delete-certificate")
    world.identifier = authority
    world.iot.update_ca_certificate(certificateId=authority, newStatus="INACTIVE")
    world.check("delete-ca-certificate")
    world.check("delete-registration-code")
    world.identifier = device


def policies(world):
    iot, cert = world.iot, f"{ARN}cert/{world.identifier}"
    world.check("create-policy")
    for name in ("UpdateDeviceCertPolicy", "LightBulbPolicy", "MyFirstGroup_Core-policy", "MyIotPolicy"):
        iot.create_policy(policyName=name, policyDocument=ANYTHING)
    for name in ("create-policy-version", "set-default-policy-version", "get-policy", "list-policies"):
        world.check(name)
    world.check("list-policy-versions")
    for number in (0, 1):
        world.check("attach-policy", number)
    iot.attach_policy(policyName="TemperatureSensorPolicy", target=cert)
    for number in (0, 1):
        world.check("list-attached-policies", number)
    world.check("list-targets-for-policy")
    for thing in ("MyTemperatureSensor", "TemperatureSensor-001"):
        iot.create_thing(thingName=thing)
    world.check("attach-thing-principal")
    for thing in ("MyRaspberryPi", "MyLightBulb", "TemperatureSensor-001"):
        iot.attach_thing_principal(thingName=thing, principal=cert)
    for name in (
        "list-principal-things", "list-thing-principals", "get-effective-policies", "test-authorization",
        "detach-thing-principal",
    ):  # fmt: skip
        world.check(name)
    for number in (0, 1):
        world.check("detach-policy", number)
    iot.set_default_policy_version(policyName="UpdateDeviceCertPolicy", policyVersionId="1")
    world.check("delete-policy-version")
    for target in iot.list_targets_for_policy(policyName="UpdateDeviceCertPolicy")["targets"]:
        iot.detach_policy(policyName="UpdateDeviceCertPolicy", target=target)
    world.check("delete-policy")


def shadows(world):
    shadow = {"thingName": "MyRPi", "payload": b'{"state":{"reported":{"moisture":"low"}}}'}
    world.edge.boto3("iot-data").update_thing_shadow(**shadow)
    for name in ("get-thing-shadow", "update-thing-shadow", "delete-thing-shadow"):
        world.check(name, service="iot-data")


def jobs(world):
    iot = world.iot
    Path(world.folder, "example-job.json").write_text('\n{\n    "operation":"customJob"\n}\n')
    world.check("create-job", 0)
    for name in (
        "describe-job", "describe-job-execution", "get-job-document", "list-jobs", "list-job-executions-for-thing",
        "update-job",
    ):  # fmt: skip
        world.check(name)
    make = {"document": "{}", "description": "example job test"}
    world.check("create-job", 1)
    world.check("associate-targets-with-job")
    for job, things in (("example-job-03", ("MyRPi", "bulb7")), ("example-job-02", ("MyRaspberryPi", "bulb7"))):
        iot.create_job(jobId=job, targets=[f"{ARN}thing/{thing}" for thing in things], **make)
    iot.create_job(jobId="my-ota-job", targets=[ARN + "thing/bulb7"], **make)
    world.check("list-job-executions-for-job")
    for name in ("cancel-job-execution", "cancel-job"):
        world.check(name)
    iot.cancel_job_execution(jobId="example-job-02", thingName="MyRaspberryPi")
    world.check("delete-job-execution")
    world.check("delete-job")
    timeout = {"inProgressTimeoutInMinutes": 2}
    iot.create_job(jobId="SampleJob", targets=[ARN + "thing/MotionSensor1"], timeoutConfig=timeout, **make)
    for name in ("describe-job-execution", "get-pending-job-executions", "start-next-pending-job-execution"):
        world.check(name, service="iot-jobs-data")
    world.refuses("update-job-execution", "InvalidRequestException", service="iot-jobs-data")


def rules(world):
    iot = world.iot
    world.check("create-topic-rule")
    payload = json.loads(Path(world.folder, "plant-rule.json").read_text())
    for name in ("MyRPiLowMoistureAlertRule", "MyPlantPiMoistureAlertRule"):
        iot.create_topic_rule(ruleName=name, topicRulePayload=payload)
    for name in ("get-topic-rule", "list-topic-rules", "disable-topic-rule", "enable-topic-rule", "replace-topic-rule"):
        world.check(name)
    world.check("delete-topic-rule")
    world.destination = world.check("create-topic-rule-destination")["topicRuleDestination"]["arn"]
    world.refuses("update-topic-rule-destination", "not confirmed")
    world.check("update-topic-rule-destination", 1)
    world.check("update-topic-rule-destination", 2)
    for name in ("get-topic-rule-destination", "list-topic-rule-destinations"):
        world.check(name)
    world.refuses("confirm-topic-rule-destination", "Exception")
    world.check("delete-topic-rule-destination")


def templates(world):
    iot = world.iot
    for name in (
        "create-provisioning-template", "create-provisioning-template-version", "list-provisioning-template-versions",
        "list-provisioning-templates", "update-provisioning-template",
    ):  # fmt: skip
        world.check(name)
    body = iot.describe_provisioning_template(templateName="widget-template")["templateBody"]
    role = "arn:aws:iam::123456789012:role/Provision_role"
    iot.create_provisioning_template(
        templateName="MyTestProvisioningTemplate", templateBody=body, provisioningRoleArn=role, enabled=True
    )
    for name in (
        "describe-provisioning-template", "describe-provisioning-template-version", "create-provisioning-claim",
        "delete-provisioning-template-version", "delete-provisioning-template",
    ):  # fmt: skip
        world.check(name)
    iot.create_thing_type(thingTypeName="VirtualThings")
    world.check("register-thing")


def settings(world):
    iot = world.iot
    for name in ("create-role-alias", "describe-role-alias", "list-role-aliases", "update-role-alias"):
        world.check(name)
    world.check("delete-role-alias")
    world.check("create-authorizer")
    function = "arn:aws:lambda:us-west-2:123456789012:function:f"
    iot.create_authorizer(authorizerName="CustomAuthorizer2", authorizerFunctionArn=function, signingDisabled=True)
    for name in (
        "describe-authorizer", "list-authorizers", "set-default-authorizer", "describe-default-authorizer",
        "clear-default-authorizer", "update-authorizer",
    ):  # fmt: skip
        world.check(name)
    iot.update_authorizer(authorizerName="CustomAuthorizer", status="INACTIVE")
    world.check("delete-authorizer")
    world.refuses("test-invoke-authorizer", "ResourceNotFoundException")
    for name in (
        "create-domain-configuration", "describe-domain-configuration", "list-domain-configurations",
        "update-domain-configuration", "delete-domain-configuration", "describe-event-configurations",
        "update-event-configurations",
    ):  # fmt: skip
        world.check(name)
    for number in range(len(examples("iot", "describe-endpoint"))):
        world.check("describe-endpoint", number)
    iot.set_logging_options(loggingOptionsPayload={"roleArn": "arn:aws:iam::123456789012:role/r", "logLevel": "ERROR"})
    world.check("get-logging-options")
    world.refuses("list-v2-logging-levels", "NotConfiguredException")
    for name in (
        "set-v2-logging-options", "get-v2-logging-options", "list-v2-logging-levels", "set-v2-logging-level",
        "delete-v2-logging-level",
    ):  # fmt: skip
        world.check(name)


def searches(world):
    world.check("get-indexing-configuration")
    world.check("update-indexing-configuration")
    for name in ("list-indices", "describe-index", "search-index", "get-statistics"):
        world.check(name)
    temperatures = (70, 71, 72, 73, 74, 75, 47, 97, 98, 99)
    racks = (1, 1, 2, 2, 3, 4, 5, 6, 6, 6)
    for number, (temperature, rack) in enumerate(zip(temperatures, racks, strict=True)):
        normal = "true" if number < 6 else "false"
        attributes = {"temperature": str(temperature), "rackId": f"Rack{rack}", "stateNormal": normal}
        world.iot.create_thing(thingName=f"TempSensor{number}", attributePayload={"attributes": attributes})
    assert world.check("get-cardinality", -1) == {"cardinality": 2}
    values = [each["value"] for each in world.check("get-percentiles", -1)["percentiles"]]
    assert values == pytest.approx([67.7, 71.25, 73.5, 91.5, 98.1])
    for name in ("create-dynamic-thing-group", "update-dynamic-thing-group", "delete-dynamic-thing-group"):
        world.check(name)


def ends(world):
    world.iot.create_thing(thingName="FourthBulb")
    world.check("delete-thing")
    world.iot.create_thing_type(thingTypeName="obsoleteThingType")
    world.check("deprecate-thing-type", 0)
    world.refuses("delete-thing-type", "wait for 5 minutes")
    world.check("deprecate-thing-type", 1)
