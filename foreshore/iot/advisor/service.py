"""Device Advisor's shell: it runs suites against one device at the advisor's endpoint, and serves its API.

A run takes the tests of a suite one after the other; at the start of each the device's connections are cut, so that
it begins by connecting. Only the device that the run names is disturbed: it is known by its certificate.

Sources: AWS IoT Core Device Advisor API reference (2020-09-18); AWS IoT developer guide, "Device Advisor".
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import ssl
import string
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from foreshore.errors import AwsError, ForeshoreError
from foreshore.http import Response, text_response
from foreshore.iot.advisor.cases import CASES, SHADOW_TOKEN
from foreshore.iot.advisor.listener import Listener
from foreshore.iot.advisor.report import FINISHED, Outcome, Run, describe
from foreshore.iot.advisor.script import CertificateKind, Event, Script, Verdict
from foreshore.iot.advisor.suite import read, with_ids
from foreshore.iot.authority import Authority, write_private
from foreshore.iot.listing import tokens
from foreshore.iot.mqtt import codec
from foreshore.iot.mqtt.server import Broker
from foreshore.iot.policies import Policy
from foreshore.iot.store import Document, Ground, Tags
from foreshore.seams import Publication
from foreshore.shapes.service_model import CallContext, OperationHandler

Params = dict[str, Any]
DEFINITION = "suitedefinition"
LARGE_NAMES = 120
"""Alternative names that make the large certificate 20 % larger than what AWS IoT Core sends (about 4.5 KB)."""

_ALPHABET = string.ascii_lowercase + string.digits


def _new_id() -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(12))


@dataclass(slots=True)
class Edge:
    """What the advisor needs of IoT Core. `principals` gives the certificate ids of a thing."""

    broker: Broker
    authority: Authority
    host: Callable[[], str]
    port: Callable[[], int]
    server_context: Callable[[], ssl.SSLContext]
    principals: Callable[[str], list[str]]
    policies: Callable[[str, str], list[Policy]]
    update_shadow: Callable[[str, str, bytes], object]
    create_job: Callable[[Params], object]


class Advisor:
    """Suites, runs and the endpoint of the device under test."""

    def __init__(self, ground: Ground, tags: Tags, edge: Edge) -> None:
        self._ground = ground
        self._tags = tags
        self._edge = edge
        self._definitions = ground.kind("advisor-suite")
        self._runs: dict[str, Run] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._contexts: dict[str, ssl.SSLContext] = {}
        self.listener = Listener(edge.broker, self._context, time.monotonic)

    async def stop(self) -> None:
        """End the run that is on and close the endpoint. A second call does nothing."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await self.listener.stop()

    def operations(self) -> dict[str, OperationHandler]:
        """AWS's operations by name."""
        return {
            "CreateSuiteDefinition": self.create,
            "UpdateSuiteDefinition": self.update,
            "GetSuiteDefinition": self.get,
            "ListSuiteDefinitions": self.list_definitions,
            "DeleteSuiteDefinition": self.delete,
            "GetEndpoint": self.endpoint,
            "StartSuiteRun": self.start_run,
            "StopSuiteRun": self.stop_run,
            "GetSuiteRun": self.get_run,
            "GetSuiteRunReport": self.get_report,
            "ListSuiteRuns": self.list_runs,
            "TagResource": self.tag,
            "UntagResource": self.untag,
            "ListTagsForResource": self.list_tags,
        }

    # Certificates that the endpoint shows

    def _context(self, kind: CertificateKind) -> ssl.SSLContext:
        if kind not in self._contexts:
            context = self._edge.server_context()
            if kind != "good":
                self._load_bad(context, kind)
            self._contexts[kind] = context
        return self._contexts[kind]

    def _load_bad(self, context: ssl.SSLContext, kind: CertificateKind) -> None:
        now = datetime.fromtimestamp(self._ground.clock(), UTC)
        names, begin, end = ["localhost", "127.0.0.1", "::1"], now, now + timedelta(days=365)
        if kind == "wrong-name":
            names = ["device-advisor.invalid"]
        elif kind == "expired":
            begin, end = now - timedelta(days=30), now - timedelta(days=1)
        elif kind == "large":
            names += [f"a-larger-server-certificate-{number:03d}.invalid" for number in range(LARGE_NAMES)]
        issued = self._edge.authority.issue_server(names, begin, end, unknown=kind == "unknown-ca")
        folder = self._edge.authority.folder / "advisor"
        key, certificate = folder / f"{kind}.key", folder / f"{kind}.pem"
        write_private(key, issued.private_key)
        certificate.write_text(issued.certificate)
        context.load_cert_chain(certificate, key)

    # Suite definitions

    def _arn(self, rest: str) -> str:
        arns = self._ground.arns
        return f"arn:aws:iotdeviceadvisor:{arns.region}:{arns.account}:{rest}"

    def _definition(self, identifier: str) -> Document:
        found = self._definitions.get(identifier)
        if found is None:
            raise AwsError("ResourceNotFoundException", f"Suite definition {identifier} does not exist.", 404)
        return found

    def _checked(self, configuration: Document) -> Document:
        root_group = with_ids(configuration["rootGroup"], _new_id)
        read(root_group, CASES)
        return {"protocol": "MqttV3_1_1", "intendedForQualification": False, **configuration, "rootGroup": root_group}

    def create(self, params: Params, context: CallContext) -> Document:
        """CreateSuiteDefinition. Raises AwsError ValidationException, NotEmulated for an unknown test case."""
        identifier, now = _new_id(), self._ground.clock()
        configuration = self._checked(params["suiteDefinitionConfiguration"])
        document = {"id": identifier, "created": now, "modified": now, "versions": [configuration]}
        self._definitions.put(identifier, document)
        arn = self._arn(f"{DEFINITION}/{identifier}")
        self._tags.set(arn, [{"Key": key, "Value": value} for key, value in params.get("tags", {}).items()])
        return {
            "suiteDefinitionId": identifier,
            "suiteDefinitionArn": arn,
            "suiteDefinitionName": configuration["suiteDefinitionName"],
            "createdAt": now,
        }

    def update(self, params: Params, context: CallContext) -> Document:
        """UpdateSuiteDefinition makes the next version."""
        document = self._definition(params["suiteDefinitionId"])
        configuration = self._checked(params["suiteDefinitionConfiguration"])
        versions = [*document["versions"], configuration]
        changed = {**document, "modified": self._ground.clock(), "versions": versions}
        self._definitions.put(document["id"], changed)
        return {
            "suiteDefinitionId": document["id"],
            "suiteDefinitionArn": self._arn(f"{DEFINITION}/{document['id']}"),
            "suiteDefinitionName": configuration["suiteDefinitionName"],
            "suiteDefinitionVersion": f"v{len(versions)}",
            "createdAt": document["created"],
            "lastUpdatedAt": changed["modified"],
        }

    def _version(self, document: Document, asked: str | None) -> tuple[str, Document]:
        versions = document["versions"]
        version = asked or f"v{len(versions)}"
        if not version.startswith("v") or not version[1:].isdigit() or not 0 < int(version[1:]) <= len(versions):
            raise AwsError("ResourceNotFoundException", f"Version {version} does not exist.", 404)
        return version, versions[int(version[1:]) - 1]

    def get(self, params: Params, context: CallContext) -> Document:
        """GetSuiteDefinition."""
        document = self._definition(params["suiteDefinitionId"])
        version, configuration = self._version(document, params.get("suiteDefinitionVersion"))
        arn = self._arn(f"{DEFINITION}/{document['id']}")
        return {
            "suiteDefinitionId": document["id"],
            "suiteDefinitionArn": arn,
            "suiteDefinitionVersion": version,
            "latestVersion": f"v{len(document['versions'])}",
            "suiteDefinitionConfiguration": configuration,
            "createdAt": document["created"],
            "lastModifiedAt": document["modified"],
            "tags": self._tag_map(arn),
        }

    def list_definitions(self, params: Params, context: CallContext) -> Document:
        """ListSuiteDefinitions."""
        page = tokens(self._definitions.names(), params, "names", default=10)
        rows = [self._definition(name) for name in page["names"]]
        shown = [
            {
                "suiteDefinitionId": row["id"],
                "suiteDefinitionName": row["versions"][-1]["suiteDefinitionName"],
                "defaultDevices": row["versions"][-1].get("devices", []),
                "intendedForQualification": row["versions"][-1]["intendedForQualification"],
                "isLongDurationTest": False,
                "protocol": row["versions"][-1]["protocol"],
                "createdAt": row["created"],
            }
            for row in rows
        ]
        return {"suiteDefinitionInformationList": shown, "nextToken": page["nextToken"]}

    def delete(self, params: Params, context: CallContext) -> None:
        """DeleteSuiteDefinition."""
        document = self._definition(params["suiteDefinitionId"])
        self._definitions.delete(document["id"])
        self._tags.drop(self._arn(f"{DEFINITION}/{document['id']}"))

    # Tags

    def _tag_map(self, arn: str) -> dict[str, str]:
        return {tag["Key"]: tag["Value"] for tag in self._tags.of(arn)}

    def tag(self, params: Params, context: CallContext) -> None:
        """TagResource."""
        self._tags.set(params["resourceArn"], [{"Key": key, "Value": value} for key, value in params["tags"].items()])

    def untag(self, params: Params, context: CallContext) -> None:
        """UntagResource."""
        self._tags.remove(params["resourceArn"], params["tagKeys"])

    def list_tags(self, params: Params, context: CallContext) -> Document:
        """ListTagsForResource."""
        return {"tags": self._tag_map(params["resourceArn"])}

    # Runs

    async def endpoint(self, params: Params, context: CallContext) -> Document:
        """GetEndpoint: where the device under test connects, `host:port`."""
        return {"endpoint": await self._listen()}

    async def _listen(self) -> str:
        try:
            port = await self.listener.start(self._edge.host(), self._edge.port())
        except OSError as error:
            raise AwsError("InternalServerException", f"The advisor can't listen: {error}", 500) from error
        return f"localhost:{port}"

    def _device(self, device: Document) -> tuple[str, list[str]]:
        """The thing's name ("" for none) and the certificate ids of a DeviceUnderTest. Raises AwsError."""
        if device.get("certificateArn"):
            return "", [str(device["certificateArn"]).rpartition("/")[2]]
        thing = str(device.get("thingArn") or "").rpartition("/")[2]
        found = self._edge.principals(thing) if thing else []
        if not found:
            raise AwsError(
                "ValidationException", "primaryDevice must be a certificate, or a thing with a certificate.", 400
            )
        return thing, found

    async def start_run(self, params: Params, context: CallContext) -> Document:
        """StartSuiteRun. Raises AwsError ConflictException while another run is on: there is one endpoint."""
        if any(run.status not in FINISHED for run in self._runs.values()):
            raise AwsError("ConflictException", "Another suite run is in progress.", 409)
        document = self._definition(params["suiteDefinitionId"])
        version, configuration = self._version(document, params.get("suiteDefinitionVersion"))
        asked = params["suiteRunConfiguration"]
        thing, principals = self._device(asked["primaryDevice"])
        chosen = asked.get("selectedTestList")
        groups = [
            (group, [Outcome(test, _new_id()) for test in group.tests if not chosen or test.test_id in chosen])
            for group in read(configuration["rootGroup"], CASES)
        ]
        endpoint = await self._listen()
        now = self._ground.clock()
        run = Run(_new_id(), document["id"], configuration["suiteDefinitionName"], version, asked, now, groups)
        self._runs[run.run_id] = run
        arn = self._run_arn(run)
        self._tags.set(arn, [{"Key": key, "Value": value} for key, value in params.get("tags", {}).items()])
        self._tasks[run.run_id] = asyncio.get_running_loop().create_task(self._run(run, thing, principals))
        return {"suiteRunId": run.run_id, "suiteRunArn": arn, "createdAt": now, "endpoint": endpoint}

    def _run_arn(self, run: Run) -> str:
        return self._arn(f"suiterun/{run.definition_id}/{run.run_id}")

    def _find(self, params: Params) -> Run:
        run = self._runs.get(params["suiteRunId"])
        if run is None or run.definition_id != params["suiteDefinitionId"]:
            raise AwsError("ResourceNotFoundException", f"Suite run {params['suiteRunId']} does not exist.", 404)
        return run

    def stop_run(self, params: Params, context: CallContext) -> None:
        """StopSuiteRun: the test that is on is stopped, the others are canceled."""
        run = self._find(params)
        if run.status not in FINISHED:
            run.status = "STOPPING"
            self._tasks[run.run_id].cancel()

    def get_run(self, params: Params, context: CallContext) -> Document:
        """GetSuiteRun."""
        run = self._find(params)
        groups = [
            {
                "groupId": group.group_id,
                "groupName": group.name,
                "tests": [one.as_case_run(self._page(context, run, one)) for one in outcomes],
            }
            for group, outcomes in run.groups
        ]
        shown = {
            "suiteDefinitionId": run.definition_id,
            "suiteDefinitionVersion": run.version,
            "suiteRunId": run.run_id,
            "suiteRunArn": self._run_arn(run),
            "suiteRunConfiguration": run.configuration,
            "testResult": {"groups": groups},
            "startTime": run.created,
            "endTime": run.end,
            "status": run.status,
            "errorReason": run.error or None,
            "tags": self._tag_map(self._run_arn(run)),
        }
        return {key: value for key, value in shown.items() if value is not None}

    def list_runs(self, params: Params, context: CallContext) -> Document:
        """ListSuiteRuns."""
        asked, version = params.get("suiteDefinitionId"), params.get("suiteDefinitionVersion")
        runs = {
            run.run_id: run
            for run in self._runs.values()
            if asked in (None, run.definition_id) and version in (None, run.version)
        }
        page = tokens(sorted(runs), params, "ids", default=10)
        shown = [
            {
                "suiteDefinitionId": run.definition_id,
                "suiteDefinitionVersion": run.version,
                "suiteDefinitionName": run.definition_name,
                "suiteRunId": run.run_id,
                "createdAt": run.created,
                "startedAt": run.created,
                "endAt": run.end,
                "status": run.status,
                "passed": run.count("PASS", "PASS_WITH_WARNINGS"),
                "failed": run.count("FAIL", "ERROR"),
            }
            for run in (runs[identifier] for identifier in page["ids"])
        ]
        rows = [{key: value for key, value in row.items() if value is not None} for row in shown]
        return {"suiteRunsList": rows, "nextToken": page["nextToken"]}

    @staticmethod
    def _page(context: CallContext, run: Run, outcome: Outcome | None = None) -> str:
        host = context.request.header("host") or "localhost"
        return f"http://{host}/_foreshore/device-advisor/{run.run_id}" + (f"/{outcome.run_id}" if outcome else "")

    def get_report(self, params: Params, context: CallContext) -> Document:
        """GetSuiteRunReport: an address that gives the report as JSON."""
        return {"qualificationReportDownloadUrl": self._page(context, self._find(params))}

    def page(self, path: str) -> Response:
        """`/<run>`: the report of a run as JSON; `/<run>/<test run>`: the log of one test as text."""
        run_id, _, outcome_id = path.strip("/").partition("/")
        run = self._runs.get(run_id)
        if run is None:
            return text_response(404, "no such run\n")
        for outcome in run.outcomes():
            if outcome.run_id == outcome_id:
                return text_response(200, "".join(f"{line}\n" for line in outcome.log))
        rows = [
            {
                "group": group.name, "name": one.test.name, "test": one.test.case, "status": one.status,
                "failure": one.verdict.failure if one.verdict else "",
                "warnings": one.verdict.warnings if one.verdict else "",
                "seconds": round((one.end or 0) - one.start, 3) if one.end and one.start else None, "log": one.log,
            }
            for group, outcomes in run.groups
            for one in outcomes
        ]  # fmt: skip
        body = orjson.dumps({"suite": run.definition_name, "run": run.run_id, "status": run.status, "tests": rows})
        return Response(200, [(b"Content-Type", b"application/json")], body)

    # Running

    async def _run(self, run: Run, thing: str, principals: list[str]) -> None:
        run.status = "RUNNING"
        watch = self.listener.watch
        watch.principals = frozenset(principals)
        try:
            for outcome in run.outcomes():
                await self._test(run, outcome, thing, principals)
        except asyncio.CancelledError:
            run.status = "STOPPING"
            for outcome in run.outcomes():
                if outcome.status not in FINISHED:
                    outcome.status = "STOPPED" if outcome.start else "CANCELED"
        finally:
            watch.tell, watch.withheld, watch.certificate = None, frozenset(), "good"
            watch.principals = frozenset()
            run.conclude(self._ground.clock())

    async def _test(self, run: Run, outcome: Outcome, thing: str, principals: list[str]) -> None:
        test, case = outcome.test, CASES[outcome.test.case]
        begun = time.monotonic()
        outcome.status, outcome.start = "RUNNING", self._ground.clock()
        done = asyncio.Event()
        try:
            script = Script(case, test.configuration, _Orders(self, outcome, thing, principals))
            self._attend(script, outcome, begun, done)
            if case.needs_device:
                self._begin_anew(principals)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(done.wait(), test.timeout_s)
                script.time_out(test.timeout_s)
            outcome.verdict = script.verdict
        except ForeshoreError as error:
            outcome.verdict, outcome.status = Verdict("FAIL", str(error)), "ERROR"
        outcome.end = self._ground.clock()
        if outcome.verdict is not None and outcome.status == "RUNNING":
            outcome.status = outcome.verdict.status
        why = outcome.verdict.failure or outcome.verdict.warnings if outcome.verdict else ""
        outcome.log.append(f"{time.monotonic() - begun:8.3f}  {outcome.status} {why}".rstrip())

    def _begin_anew(self, principals: list[str]) -> None:
        """The device has to connect, and finds no session of an earlier test."""
        self.listener.drop()
        broker = self._edge.broker
        for session in [one for one in broker.sessions.values() if one.principal in principals]:
            if session.connection is None or session.connection.link in self.listener.links:
                broker.forget(session.client_id)

    def _attend(self, script: Script, outcome: Outcome, begun: float, done: asyncio.Event) -> None:
        """Let the listener tell the script of what happens from now on."""

        def tell(event: Event) -> None:
            outcome.log.append(f"{event.at - begun:8.3f}  {describe(event)}")
            if isinstance(event.packet, codec.Connect):
                self.listener.client_id = event.packet.client_id
            script.feed(event)
            if script.verdict is not None:
                done.set()

        watch = self.listener.watch
        watch.tell, watch.withheld, watch.certificate = tell, script.scene.withheld, script.certificate


class _Orders:
    """What a script orders, done to the edge."""

    def __init__(self, advisor: Advisor, outcome: Outcome, thing: str, principals: list[str]) -> None:
        self.thing = thing
        self._advisor = advisor
        self._edge = advisor._edge
        self._outcome = outcome
        self._principals = principals

    def drop(self) -> None:
        self._outcome.log.append("          advisor cuts the connection")
        self._advisor.listener.drop()

    def publish(self, topic: str, payload: bytes) -> None:
        self._outcome.log.append(f"          advisor publishes {len(payload)} bytes to {topic}")
        self._edge.broker.publish(Publication(topic, payload, 1))

    def forget_session(self) -> None:
        self._outcome.log.append("          advisor ends the session")
        self._edge.broker.forget(self._advisor.listener.client_id)

    def desire(self, state: dict[str, Any], shadow: str) -> None:
        body = orjson.dumps({"state": {"desired": state}, "clientToken": SHADOW_TOKEN})
        self._edge.update_shadow(self.thing, shadow, body)

    def create_job(self, document: str, source: str) -> str:
        job = f"device-advisor-{_new_id()}"
        arns = self._advisor._ground.arns
        params = {"jobId": job, "targets": [arns.iot(f"thing/{self.thing}")]}
        self._edge.create_job({**params, **({"document": document} if document else {"documentSource": source})})
        return job

    def policies(self) -> list[Policy]:
        arns = self._advisor._ground.arns
        return [one for each in self._principals for one in self._edge.policies(arns.iot(f"cert/{each}"), self.thing)]
