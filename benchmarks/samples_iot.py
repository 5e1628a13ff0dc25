"""Run the samples of AWS's IoT device SDKs for Python, unmodified, against a fresh edge, and print a table.

The samples are not part of this repository: check out github.com/aws/aws-iot-device-sdk-python-v2, or the older
aws-iot-device-sdk-python, and pass its folder. Any version will do; tag v1.24.0 of the former holds the older
MQTT 3.1.1 samples beside the newer ones.

    python benchmarks/samples_iot.py --sdk ../aws-iot-device-sdk-python-v2
    python benchmarks/samples_iot.py --sdk ../aws-iot-device-sdk-python-v2 --only shadow --verbose

Linux only. The samples fix ports 8883 and 443 and trust the system's certificates, so everything runs in namespaces of
its own (user, network, mounts; `unshare` of util-linux): a loopback interface where all ports are free, a hosts file
that gives AWS's endpoint names 127.0.0.1, and the local CA among the system's. Nothing outside is touched. A sample
gets the endpoint's name, a certificate and its key, and what it asks for by name; it passes when it exits with 0 and
prints what it prints on AWS; one that never ends is stopped when it has printed it. Exits 1 when one fails.
"""

from __future__ import annotations

import argparse
import base64
import ctypes
import fcntl
import io
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import NameOID

REGION = "us-east-1"
ENDPOINT = f"a1b2c3d4e5f6g7-ats.iot.{REGION}.amazonaws.com"
CREDENTIALS = f"a1b2c3d4e5f6g7.credentials.iot.{REGION}.amazonaws.com"
BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem")
MS_BIND = 4096
DISCOVERY = f"greengrass-ats.iot.{REGION}.amazonaws.com"
INSIDE = "FORESHORE_SAMPLES_INSIDE"
TOKEN = "sample-token"

MTLS = "--endpoint {endpoint} --cert {cert} --key {key}"
OLD = MTLS + " --ca_file {ca}"
FIRST = "-e {endpoint} -r {ca} -c {cert} -k {key}"
AUTH = "--endpoint {endpoint} --custom_auth_authorizer_name unsigned --custom_auth_username u --custom_auth_password pw"
PROVISION = '--template_name samples --template_parameters {{"SerialNumber":"{serial}"}}'
SHADOW = """get
update-desired {"color":"green"}
update-reported {"color":"green"}
get
delete
quit
"""
JOBS = """create-job {serial} {{"do":"reboot"}}
get-pending-job-executions
start-next-pending-job-execution
describe-job-execution {serial}
update-job-execution {serial} SUCCEEDED
delete-job {serial}
quit
"""


@dataclass(frozen=True)
class Sample:
    """One run: the file in the checkout, its words (with `{names}`), standard input, what it has to print."""

    path: str
    words: str
    prints: tuple[str, ...]
    stdin: str = ""
    refuses: tuple[str, ...] = ("Exception:", "Traceback")
    is_endless: bool = False


SAMPLES = [
    Sample("samples/mqtt/mqtt5_x509.py", MTLS, ("5 message(s) received", "Client Stopped!")),
    Sample("samples/mqtt/mqtt5_aws_websocket.py", "--endpoint {endpoint} --signing_region {region}",
           ("5 message(s) received", "Client Stopped!")),
    Sample("samples/mqtt/mqtt5_custom_auth_unsigned.py",
           "--endpoint {endpoint} --authorizer_name unsigned --auth_username u --auth_password pw",
           ("5 message(s) received", "Client Stopped!")),
    Sample("samples/mqtt/mqtt5_custom_auth_signed.py",
           "--endpoint {endpoint} --authorizer_name signed --auth_signature {signature} --auth_token_key_name token "
           "--auth_token_key_value {token} --auth_username u --auth_password pw",
           ("5 message(s) received", "Client Stopped!")),
    Sample("samples/service_clients/fleet_provisioning_basic.py", MTLS + " " + PROVISION,
           ("RegisterThing response", "Stopped!")),
    Sample("samples/service_clients/fleet_provisioning_csr.py", MTLS + " --csr_file {csr} " + PROVISION,
           ("RegisterThing response", "Stopped!")),
    Sample("samples/service_clients/shadow.py", MTLS + " --thing {thing}",
           ("update-reported response", "delete response", "Stopped!"), SHADOW, ("Traceback",)),
    Sample("samples/service_clients/jobs.py", MTLS + " --thing {thing} --region {region}",
           ("UpdateJobExecutionResponse", "NextJobExecutionChangedEvent", "DeleteJobResponse", "Stopped!"), JOBS),
    *(Sample(f"samples/basicPubSub/{name}.py", words, ("Received a new message",), is_endless=True)
      for name, words in (
          ("basicPubSub", FIRST), ("basicPubSub", FIRST + " -p 443"), ("basicPubSub", "-e {endpoint} -r {ca} -w"),
          ("basicPubSubAsync", FIRST), ("basicPubSub_APICallInCallback", FIRST))),
    Sample("samples/basicShadow/basicShadowUpdater.py", FIRST + " -n {thing}", ("accepted!",), is_endless=True),
    Sample("samples/jobs/jobsSample.py", FIRST + " -n {waiting}", ("Done processing jobs", '"jobsSucceeded": 1')),
    Sample("samples/basic_connect.py", OLD, ("Disconnected!",)),
    Sample("samples/websocket_connect.py", "--endpoint {endpoint} --signing_region {region}", ("Disconnected!",)),
    Sample("samples/x509_connect.py", "--endpoint {endpoint} --signing_region {region} --x509_endpoint {credentials} "
           "--x509_thing_name {thing} --x509_role_alias samples --x509_cert {cert} --x509_key {key}",
           ("Disconnected!",)),
    Sample("samples/custom_authorizer_connect.py", AUTH, ("Disconnected!",)),
    Sample("samples/mqtt5_custom_authorizer_connect.py", AUTH, ("Lifecycle Stopped",)),
    Sample("samples/mqtt5_custom_authorizer_connect.py", AUTH + " --use_websockets true", ("Lifecycle Stopped",)),
    Sample("samples/pubsub.py", OLD + " --count 3", ("3 message(s) received", "Disconnected!")),
    Sample("samples/pubsub.py", OLD + " --count 3 --port 443", ("3 message(s) received", "Disconnected!")),
    Sample("samples/mqtt5_pubsub.py", OLD + " --count 3", ("3 message(s) received", "Client Stopped")),
    Sample("samples/mqtt5_shared_subscription.py", OLD + " --count 3", ("Complete!",)),
    Sample("samples/fleet_provisioning_basic.py", MTLS + " " + PROVISION, ("RegisterThing response", "Stopped!")),
    Sample("samples/fleet_provisioning_csr.py", MTLS + " --csr_file {csr} " + PROVISION,
           ("RegisterThing response", "Stopped!")),
    Sample("samples/shadow.py", MTLS + " --thing {thing}", ("delete response", "Stopped!"), SHADOW, ("Traceback",)),
    Sample("samples/jobs.py", MTLS + " --thing {thing} --region {region}",
           ("UpdateJobExecutionResponse", "NextJobExecutionChangedEvent", "Stopped!"), JOBS),
    *(Sample(f"samples/{folder}basic_discovery.py", "--cert {cert} --key {key} --ca_file {ca} --region {region} "
             "--thing_name {thing} --topic test/topic --max_pub_ops 3", ("Connected!", "Publish received on topic"))
      for folder in ("", "greengrass/")),
    *(Sample(f"samples/deprecated/fleetprovisioning{name}.py", OLD + " --is_ci true " + more + PROVISION,
             ("Published RegisterThing request..", "Exiting Sample: success"))
      for name in ("", "_mqtt5") for more in ("", "--csr {csr} ")),
    *(Sample(f"samples/deprecated/shadow{name}.py", OLD + " --thing_name {thing} --shadow_property color --is_ci true",
             ("Finished updating reported shadow value",)) for name in ("", "_mqtt5")),
    *(Sample(f"samples/deprecated/jobs{name}.py", OLD + " --thing_name {waiting} --is_ci true",
             ("Pending Jobs:", "At least one job queued in CI!")) for name in ("", "_mqtt5")),
    *(Sample(f"servicetests/test_cases/test_{test}.py",
             f"--config-file test_cases/mqtt{version}_{case}_cfg.json --region {{region}}{more}",
             ("Test succeeded",) if "fleet" not in test else ("IoT thing deleted successfully",),
             "", ("ERROR: Failed", "Traceback"))
      for version in (3, 5)
      for test, case, more in (
          ("shadow_update", "shadow", ""), ("shadow_update", "named_shadow", ""), ("jobs_execution", "jobs", ""),
          ("fleet_provisioning", "fleet_provisioning", " --thing-name-prefix Fleet_Thing_"),
          ("fleet_provisioning", "fleet_provisioning_with_csr", " --thing-name-prefix Fleet_Thing_"))),
]  # fmt: skip
LEFT_OUT = {
    "cognito": "needs Amazon Cognito",
    "pkcs11": "needs a PKCS#11 token",
    "pkcs12": "macOS only",
    "windows": "Windows only",
    "ipc_greengrass": "a Greengrass component",
    "basicDiscovery": "has no end and no sign of one",
    "Proxy": "needs a proxy",
    "Cognito": "needs Amazon Cognito",
    "DeltaListener": "waits for another client",
    "ThingShadowEcho": "waits for another client",
}

AUTHORIZER = """
import json

def handler(event, context):
    mqtt = event["protocolData"]["mqtt"]
    statement = {"Action": "iot:*", "Effect": "Allow", "Resource": "*"}
    return {
        "isAuthenticated": event["signatureVerified"] or mqtt.get("password") == "cHc=",
        "principalId": "samples", "disconnectAfterInSeconds": 3600, "refreshAfterInSeconds": 3600,
        "policyDocuments": [json.dumps({"Version": "2012-10-17", "Statement": [statement]})],
    }
"""
ANYTHING = {"Effect": "Allow", "Action": ["iot:*", "greengrass:Discover"], "Resource": "*"}
POLICY = {"Version": "2012-10-17", "Statement": [ANYTHING]}
DEVICES = {
    "deviceGroups": {
        "formatVersion": "2021-03-05",
        "definitions": {"all": {"selectionRule": "thingName: *", "policyName": "all"}},
        "policies": {"all": {"all": {"operations": ["*"], "resources": ["*"]}}},
    }
}
DEPLOYMENT = {
    "components": {
        "aws.greengrass.clientdevices.Auth": {
            "componentVersion": "2.5.0", "configurationUpdate": {"merge": json.dumps(DEVICES)},
        },
        "aws.greengrass.clientdevices.mqtt.Moquette": {"componentVersion": "2.3.7"},
    }
}  # fmt: skip
TEMPLATE = {
    "Parameters": {"SerialNumber": {"Type": "String"}, "AWS::IoT::Certificate::Id": {"Type": "String"}},
    "Resources": {
        "thing": {
            "Type": "AWS::IoT::Thing",
            "Properties": {"ThingName": {"Fn::Join": ["", ["Fleet_Thing_", {"Ref": "SerialNumber"}]]}},
        },
        "certificate": {
            "Type": "AWS::IoT::Certificate",
            "Properties": {"CertificateId": {"Ref": "AWS::IoT::Certificate::Id"}, "Status": "Active"},
        },
        "policy": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyName": "samples"}},
    },
}


# Inside namespaces of our own


def enter(argv: list[str]) -> int:
    """Run this script again as root of a user namespace with its own network and mounts."""
    unshare = shutil.which("unshare")
    if unshare is None or not sys.platform.startswith("linux"):
        print("this needs Linux and `unshare` (util-linux)", file=sys.stderr)
        return 2
    command = [unshare, "--user", "--map-root-user", "--net", "--mount", sys.executable, *argv]
    return subprocess.run(command, env={**os.environ, INSIDE: "1"}, check=False).returncode


def raise_loopback() -> None:
    """`ip link set lo up`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sH14x", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS, UP | RUNNING


def put_over(source: Path, target: str) -> None:
    """Bind a file over another, for this mount namespace alone. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(str(source).encode(), target.encode(), None, MS_BIND, None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


def trust(ca: Path, folder: Path) -> None:
    """Add the CA to the system's certificates."""
    for path in filter(os.path.exists, BUNDLES):
        bundle = folder / "bundle.pem"
        bundle.write_bytes(Path(path).read_bytes() + b"\n" + ca.read_bytes())
        put_over(bundle, os.path.realpath(path))
        return
    raise OSError(f"no certificates of the system found at {', '.join(BUNDLES)}")


# The edge and what the samples need in it


@dataclass
class Edge:
    """A running edge with a device, a provisioning template, authorizers and jobs."""

    folder: Path
    values: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[str] | None = None
    serial: int = 0

    def start(self) -> None:
        """Boot on AWS's own ports. Raises RuntimeError."""
        (self.folder / "project/recipes").mkdir(parents=True)
        (self.folder / "project/recipes/deployment.json").write_text(json.dumps(DEPLOYMENT))
        command = [sys.executable, "-m", "foreshore", "-C", str(self.folder / "project"), "dev", "--json"]
        command += ["--home", str(self.folder / "home"), "--only", "iot,lambda,greengrass", "--port-443"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the edge did not start")
        aws = json.loads(line)["aws"]
        os.environ |= {"AWS_ENDPOINT_URL": aws, "AWS_DEFAULT_REGION": REGION}
        os.environ |= {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret"}
        trust(self.folder / "home/certs/ca.pem", self.folder)

    def stop(self) -> None:
        """Stop the edge."""
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(30)

    def prepare(self) -> None:
        """Make what the samples' instructions say to make."""
        iot = boto3.client("iot")
        made = iot.create_keys_and_certificate(setAsActive=True)
        iot.create_policy(policyName="samples", policyDocument=json.dumps(POLICY))
        iot.attach_policy(policyName="samples", target=made["certificateArn"])
        iot.create_thing(thingName="samples")
        iot.attach_thing_principal(thingName="samples", principal=made["certificateArn"])
        boto3.client("greengrassv2").batch_associate_client_device_with_core_device(
            coreDeviceThingName="core-1", entries=[{"thingName": "samples"}]
        )
        iot.create_thing_group(thingGroupName="CI_ServiceClient_Thing_Group")
        for name in ("samples", "CI_FleetProvisioning_Template"):
            iot.create_provisioning_template(
                templateName=name, templateBody=json.dumps(TEMPLATE), enabled=True,
                provisioningRoleArn="arn:aws:iam::000000000000:role/provisioning",
            )  # fmt: skip
        iot.create_role_alias(roleAlias="samples", roleArn="arn:aws:iam::000000000000:role/samples")
        group = iot.describe_thing_group(thingGroupName="CI_ServiceClient_Thing_Group")["thingGroupArn"]
        iot.create_job(jobId="ci-job", targets=[group], targetSelection="CONTINUOUS", document='{"do":"nothing"}')
        files = {"cert": made["certificatePem"], "key": made["keyPair"]["PrivateKey"], "csr": csr()}
        for name, text in files.items():
            (self.folder / f"{name}.pem").write_text(text)
            self.values[name] = str(self.folder / f"{name}.pem")
        self.values |= {"signature": self.make_authorizers(iot), "token": TOKEN, "thing": "samples"}
        self.values |= {"endpoint": ENDPOINT, "credentials": CREDENTIALS, "region": REGION}
        self.values["ca"] = str(self.folder / "home/certs/ca.pem")
        self.make_secrets(files)

    def make_secrets(self, files: dict[str, str]) -> None:
        """What the service tests look up in Secrets Manager."""
        secrets = boto3.client("secretsmanager")
        names = {"ci/endpoint": ENDPOINT, "ci/JobsServiceClientTest/job_id": "ci-job"}
        names |= {f"ci/FleetProvisioning/{name}": text for name, text in files.items()}
        names |= {f"ci/{name}ServiceClientTest/policy_name": "samples" for name in ("Jobs", "Shadow")}
        for name, text in names.items():
            secrets.create_secret(Name=name, SecretString=text)

    def make_authorizers(self, iot: Any) -> str:
        """A Lambda authorizer that asks for a password, one that asks for a signature; give the token's signature."""
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("main.py", AUTHORIZER)
        function = boto3.client("lambda").create_function(
            FunctionName="authorizer", Runtime="python3.12", Handler="main.handler",
            Role="arn:aws:iam::000000000000:role/authorizer", Code={"ZipFile": archive.getvalue()},
        )["FunctionArn"]  # fmt: skip
        key = rsa.generate_private_key(65537, 2048)
        pem = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        both = {"authorizerFunctionArn": function, "status": "ACTIVE"}
        iot.create_authorizer(authorizerName="unsigned", signingDisabled=True, **both)
        keys = {"tokenKeyName": "token", "tokenSigningPublicKeys": {"first": pem.decode()}}
        iot.create_authorizer(authorizerName="signed", **keys, **both)
        return base64.b64encode(key.sign(TOKEN.encode(), padding.PKCS1v15(), hashes.SHA256())).decode()

    def fresh(self) -> dict[str, str]:
        """The values for one run: an unused serial number, and a thing for which a job waits."""
        self.serial += 1
        iot, waiting = boto3.client("iot"), f"waiting-{self.serial}"
        arn = iot.create_thing(thingName=waiting)["thingArn"]
        iot.create_job(jobId=f"job-{self.serial}", targets=[arn], document='{"do":"nothing"}')
        return {**self.values, "serial": f"serial-{self.serial}", "waiting": waiting}


def csr() -> str:
    """A certificate signing request in PEM."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sample device")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name)
    signed = request.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM).decode()


# Running


def ended(process: subprocess.Popen[str], stdin: str, sample: Sample) -> tuple[str, bool]:
    """Feed a sample and wait for its end, 60 s at most, or until an endless one has printed all; give its output."""
    stopping = threading.Timer(60, process.kill)
    stopping.start()
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(stdin)
    process.stdin.close()
    output = ""
    for line in process.stdout:
        output += line
        if sample.is_endless and all(words in output for words in sample.prints):
            process.terminate()
            break
    process.stdout.read()
    process.wait()
    is_over = stopping.is_alive()
    stopping.cancel()
    return output, is_over


def run(sample: Sample, sdk: Path, values: dict[str, str]) -> tuple[str, str]:
    """Run one sample; give "" or what is wrong, and its output."""
    folder = sdk / ("servicetests" if sample.path.startswith("servicetests") else "")
    paths = [str(folder), str(sdk / "utils"), str(sdk / "samples"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    words = [word.format(**values) for word in sample.words.split()]
    stdin = sample.stdin if sample.stdin is SHADOW else sample.stdin.format(**values)
    command = [sys.executable, "-u", str(sdk / sample.path), *words]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder,
        env=environment,
    )  # fmt: skip
    output, is_over = ended(process, stdin, sample)
    if not is_over:
        return "no end within 60 s", output
    if process.returncode and not sample.is_endless:
        return f"exit {process.returncode}", output
    missing = [words for words in sample.prints if words not in output]
    refused = [words for words in sample.refuses if words in output]
    return (f"does not print {missing}" if missing else f"prints {refused}" if refused else ""), output


def not_run(sdk: Path) -> Iterator[tuple[str, str]]:
    """The samples of the checkout that the table does not know or leaves out, with the reason."""
    known = {sample.path for sample in SAMPLES}
    for path in sorted((sdk / "samples").rglob("*.py")):
        name = path.relative_to(sdk).as_posix()
        if name not in known and "utils/" not in name:
            yield name, next((why for word, why in LEFT_OUT.items() if word in name), "unknown to this script")


def judge(options: argparse.Namespace, folder: Path) -> int:
    """Run everything; print a line each and the sums."""
    sdk = folder / "sdk"
    shutil.copytree(options.sdk, sdk, ignore=shutil.ignore_patterns(".git"))
    hosts = folder / "hosts"
    hosts.write_text(f"127.0.0.1 localhost {ENDPOINT} {CREDENTIALS} {DISCOVERY}\n")
    raise_loopback()
    put_over(hosts, "/etc/hosts")
    edge, passed, count = Edge(folder), 0, 0
    try:
        edge.start()
        edge.prepare()
        for sample in SAMPLES:
            if not (sdk / sample.path).is_file() or options.only not in sample.path + " " + sample.words:
                continue
            begun = time.perf_counter()
            wrong, output = run(sample, sdk, edge.fresh())
            count, passed = count + 1, passed + (not wrong)
            more = " ".join(
                word for word in ("--port 443", "-p 443", " -w", "--use_websockets", "--csr ") if word in sample.words
            )
            more += sample.words.partition("test_cases/")[2].partition("_cfg")[0]
            line = f"{'FAIL' if wrong else 'pass'}  {sample.path} {more}".rstrip()
            print(f"{line:<100} {time.perf_counter() - begun:5.1f} s  {wrong}".rstrip(), flush=True)
            if wrong or options.verbose:
                print(output)
    finally:
        edge.stop()
    for name, why in not_run(sdk):
        print(f"----  {name:<94} not run: {why}")
    print(f"{passed} of {count} pass")
    return 0 if passed == count else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sdk", type=Path, required=True, help="folder of a checkout of aws-iot-device-sdk-python-v2")
    parser.add_argument("--only", default="", help="only samples whose path or words hold this")
    parser.add_argument("--verbose", action="store_true", help="print every sample's output")
    options = parser.parse_args()
    if not os.environ.get(INSIDE):
        return enter(sys.argv)
    with tempfile.TemporaryDirectory() as folder:
        return judge(options, Path(folder))


if __name__ == "__main__":
    sys.exit(main())
