"""`foreshore device-advisor`: run AWS's Device Advisor test cases against one device."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from foreshore.cli.running import endpoints
from foreshore.errors import AwsError, UserError

if TYPE_CHECKING:
    from foreshore.app import App

FINISHED = ("PASS", "FAIL", "PASS_WITH_WARNINGS", "ERROR", "CANCELED", "STOPPED")
GOOD = ("PASS", "PASS_WITH_WARNINGS")
WORST_FIRST = ("ERROR", "STOPPED", "FAIL", "PASS_WITH_WARNINGS", "PASS")
POLL_S = 0.25
RESTART_S = 0.5

DEVICE_POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Action": "iot:Connect",
            "Resource": "arn:aws:iot:*:*:client/${iot:Connection.Thing.ThingName}",
        },
        {
            "Effect": "Allow",
            "Action": ["iot:Publish", "iot:Receive", "iot:RetainPublish"],
            "Resource": [
                "arn:aws:iot:*:*:topic/${iot:Connection.Thing.ThingName}/*",
                "arn:aws:iot:*:*:topic/$aws/things/${iot:Connection.Thing.ThingName}/*",
            ],
        },
        {
            "Effect": "Allow",
            "Action": "iot:Subscribe",
            "Resource": [
                "arn:aws:iot:*:*:topicfilter/${iot:Connection.Thing.ThingName}/*",
                "arn:aws:iot:*:*:topicfilter/$aws/things/${iot:Connection.Thing.ThingName}/*",
            ],
        },
    ],
}
"""What a device gets that is made for the run: its own client id, and topics below its own name."""


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--thing", metavar="NAME", help="The device under test, by its thing.")
@click.option("--certificate", metavar="ARN", help="The device under test, by its certificate.")
@click.option("--suite", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="A suite in AWS's JSON: a suiteDefinitionConfiguration, or its rootGroup.")  # fmt: skip
@click.option("--test", "tests", multiple=True, metavar="ID", help="Run this test case (AWS's id); may be repeated.")
@click.option("--timeout", type=click.IntRange(1, 86400), metavar="SECONDS",
              help="EXECUTION_TIMEOUT of tests that set none.")  # fmt: skip
@click.option("--list", "show_list", is_flag=True, help="Show the test cases and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object, with every log.")
@click.argument("device", nargs=-1, metavar="[-- CMD [ARG]...]")
@click.pass_context
def command(
    ctx: click.Context,
    thing: str | None,
    certificate: str | None,
    suite: Path | None,
    tests: tuple[str, ...],
    timeout: int | None,
    show_list: bool,
    as_json: bool,
    device: tuple[str, ...],
) -> None:
    """Test how one device copes with faults: after AWS IoT Core Device Advisor's test cases.

    The device connects to the advisor's own endpoint (shown at the start) with its usual certificate; nothing else on
    the edge is disturbed. CMD, if given, is the device: it is started afresh for each test, and again whenever it
    exits, with FORESHORE_ADVISOR_HOST, FORESHORE_ADVISOR_PORT, FORESHORE_THING, FORESHORE_CERT, FORESHORE_KEY (those of
    .foreshore/devices/THING, if they are there) and FORESHORE_CA set. Where no edge runs in this folder one is started
    for the run, and the thing is made if it is not there.

    Exits 1 when a test fails.
    """
    if show_list:
        from foreshore.iot.advisor.cases import CASES

        for name, case in CASES.items():
            click.echo(f"{name:<54} {case.about}")
        return
    if (thing is None) == (certificate is None):
        raise click.UsageError("give --thing or --certificate, one of them")
    session = Session(thing, certificate, configuration(suite, tests, timeout), device, as_json)
    try:
        ends = endpoints(ctx.obj["project"])
    except UserError:
        ctx.exit(_with_own_edge(ctx.obj["project"], session))
    if "ca" not in ends:
        raise UserError("the edge that runs here has no IoT Core", code="only", mend="start it with iot in --only")
    folder = Path(ctx.obj["project"])
    session.files = (folder / ends["ca"]).parents[1] / "devices" / (thing or "")
    ctx.exit(session.run(ends, folder))


def configuration(suite: Path | None, tests: tuple[str, ...], timeout: int | None) -> dict[str, Any]:
    """The suiteDefinitionConfiguration to run. Raises UserError for a file that is none."""
    from foreshore.iot.advisor.suite import default_root_group

    found: dict[str, Any] = {"suiteDefinitionName": "device-advisor", "devicePermissionRoleArn": "arn:aws:iam:::role/x"}
    if suite is not None:
        found |= _read(suite)
    elif tests:
        rows = [{"name": one, "configuration": {}, "test": {"id": one, "version": "0.0.0"}} for one in tests]
        found["rootGroup"] = json.dumps({"configuration": {}, "tests": [{"name": "Tests", "tests": rows}]})
    else:
        found["rootGroup"] = default_root_group()
    if timeout is not None:
        root = json.loads(found["rootGroup"])
        root["configuration"] = {"EXECUTION_TIMEOUT": str(timeout), **(root.get("configuration") or {})}
        found["rootGroup"] = json.dumps(root)
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"can't read the suite: {error.strerror}", where=str(path), code="suite") from None
    except ValueError as error:
        raise UserError(f"the suite is not JSON: {error}", where=str(path), code="suite") from None
    found = found.get("suiteDefinitionConfiguration", found) if isinstance(found, dict) else None
    if not isinstance(found, dict):
        raise UserError("a suite is a JSON object", where=str(path), code="suite")
    if "rootGroup" not in found:
        return {"rootGroup": json.dumps(found)}
    if not isinstance(found["rootGroup"], str):
        found["rootGroup"] = json.dumps(found["rootGroup"])
    return found


def _with_own_edge(folder: str, session: Session) -> int:
    """Start an edge on free ports for the run."""
    from foreshore.app import Options
    from foreshore.cli.dev import run_edge

    async def body(app: App, stopping: asyncio.Event) -> int:
        if app.iot is not None and session.thing is not None:
            files = app.home / "devices" / session.thing
            files.mkdir(parents=True, exist_ok=True, mode=0o700)
            documents = {} if session.thing in app.iot.registry.things else {"device-advisor": DEVICE_POLICY}
            app.iot.ensure_thing(session.thing, policy_documents=documents, certs_folder=files)
            session.files = files
        running = asyncio.ensure_future(asyncio.to_thread(session.run, app.endpoints, Path(folder)))
        interrupted = asyncio.ensure_future(stopping.wait())
        await asyncio.wait({running, interrupted}, return_when=asyncio.FIRST_COMPLETED)
        interrupted.cancel()
        session.is_stopped = not running.done()
        return await running

    return run_edge(replace(Options(Path(folder)), port_base=0, only=("iot",)), body)


class Session:
    """One run over the edge's `iotdeviceadvisor` API."""

    def __init__(
        self, thing: str | None, certificate: str | None, suite: dict[str, Any], device: tuple[str, ...], as_json: bool
    ) -> None:
        self.thing = thing
        self.certificate = certificate
        self.suite = suite
        self.device = device
        self.as_json = as_json
        self.files = Path(".foreshore/devices")
        self.is_stopped = False
        self._ends: dict[str, Any] = {}

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """One API request. Raises AwsError as the edge answered."""
        region = self._ends["region"]
        signed = f"AWS4-HMAC-SHA256 Credential=foreshore/20200101/{region}/iotdeviceadvisor/aws4_request"
        request = urllib.request.Request(
            self._ends["aws"] + path, method=method, data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"{signed}, SignedHeaders=host, Signature=0", "Content-Type": "application/json"},
        )  # fmt: skip
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            text = error.read().decode("utf-8", "replace")
            with contextlib.suppress(ValueError):
                text = json.loads(text).get("message", text)
            code = error.headers.get("x-amzn-ErrorType", "error").partition(":")[0]
            if code == "NotEmulated":
                raise UserError(text, code="not-emulated", mend="see `foreshore device-advisor --list`") from None
            raise AwsError(code, text, error.code) from None

    def run(self, ends: dict[str, Any], folder: Path) -> int:
        """Run the suite to its end, showing progress; gives the exit code.

        A device that is a program gets a run for each test, so that each begins with a device that was just started.
        """
        self._ends = ends
        made = self.call("POST", "/suiteDefinitions", {"suiteDefinitionConfiguration": self.suite})
        definition = f"/suiteDefinitions/{made['suiteDefinitionId']}"
        try:
            chosen = self._tests(definition) if self.device else [None]
            reports = [self._run(definition, test, folder, is_first=test == chosen[0]) for test in chosen]
        finally:
            self.call("DELETE", definition)
        tests = [row for report in reports for row in report["tests"]]
        statuses = [report["status"] for report in reports]
        status = next((one for one in WORST_FIRST if one in statuses), "PASS")
        if self.as_json:
            click.echo(json.dumps({"suite": made["suiteDefinitionName"], "status": status, "tests": tests}))
        else:
            click.echo(f"{status}: {sum(row['status'] in GOOD for row in tests)} of {len(tests)} tests passed")
        return 0 if status in GOOD else 1

    def _tests(self, definition: str) -> list[str | None]:
        """The ids of the suite's tests."""
        found = self.call("GET", definition)["suiteDefinitionConfiguration"]
        return [test["id"] for group in json.loads(found["rootGroup"])["tests"] for test in group["tests"]]

    def _run(self, definition: str, test: str | None, folder: Path, *, is_first: bool) -> Any:
        """One run, of one test or of all; gives its report."""
        if self.is_stopped:
            return {"status": "STOPPED", "tests": []}
        arn = f"arn:aws:iot:{self._ends['region']}:{self._ends['account']}:thing/{self.thing}"
        device = {"thingArn": arn} if self.thing else {"certificateArn": self.certificate}
        asked: dict[str, Any] = {"primaryDevice": device} | ({"selectedTestList": [test]} if test else {})
        started = self.call("POST", f"{definition}/suiteRuns", {"suiteRunConfiguration": asked})
        if is_first:
            self._say(f"the device connects to {started['endpoint']}")
        process = _Device(self.device, self._environment(started["endpoint"], folder))
        try:
            self._follow(f"{definition}/suiteRuns/{started['suiteRunId']}", process)
        finally:
            process.stop()
        page = f"{self._ends['aws']}/_foreshore/device-advisor/{started['suiteRunId']}"
        with urllib.request.urlopen(page, timeout=30) as answer:
            return json.load(answer)

    def _say(self, text: str) -> None:
        if not self.as_json:
            click.echo(text)

    def _follow(self, path: str, process: _Device) -> None:
        """Tell of each test as it ends, until the run has ended."""
        told: set[str] = set()
        try:
            while True:
                process.keep_running()
                found = self.call("GET", path)
                for group in found["testResult"]["groups"]:
                    for test in group["tests"]:
                        self._progress(group["groupName"], test, told)
                if found["status"] in FINISHED:
                    return
                if self.is_stopped:
                    self.call("POST", f"{path}/stop", {})
                time.sleep(POLL_S)
        except BaseException:
            self.call("POST", f"{path}/stop", {})
            raise

    def _progress(self, group: str, test: dict[str, Any], told: set[str]) -> None:
        name = f"{group} / {test['testCaseDefinitionName']}"
        if (
            test["status"] == "RUNNING"
            and sys.stdout.isatty()
            and (running := f"{test['testCaseRunId']} on") not in told
        ):
            told.add(running)
            self._say(f"RUNNING             {name}")
        if test["status"] in FINISHED and test["testCaseRunId"] not in told:
            told.add(test["testCaseRunId"])
            self._say(f"{test['status']:<19} {name}")
            for key in ("failure", "warnings"):
                if test.get(key):
                    self._say(f"                    {test[key]}")

    def _environment(self, endpoint: str, folder: Path) -> dict[str, str]:
        host, _, port = endpoint.rpartition(":")
        found = {
            **os.environ,
            "FORESHORE_ADVISOR_HOST": host,
            "FORESHORE_ADVISOR_PORT": port,
            "FORESHORE_THING": self.thing or "",
            "FORESHORE_CA": str(folder / self._ends["ca"]),
        }
        certificate, key = self.files / "certificate.pem", self.files / "private.key"
        if certificate.is_file() and key.is_file():
            found |= {"FORESHORE_CERT": str(certificate), "FORESHORE_KEY": str(key)}
        return found


class _Device:
    """The device's process, if the command names one; started again when it has ended."""

    def __init__(self, argv: tuple[str, ...], environment: dict[str, str]) -> None:
        import subprocess

        self._argv = argv
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = 0.0

    def keep_running(self) -> None:
        """Start it, or start it again a moment after it has ended. Raises UserError when it can't be started."""
        import subprocess

        if not self._argv or (self._process is not None and self._process.poll() is None):
            return
        if self._process is not None and not self._ended:
            self._ended = time.monotonic()
        if self._ended and time.monotonic() - self._ended < RESTART_S:
            return
        self._ended = 0.0
        try:
            self._process = subprocess.Popen(self._argv, env=self._environment, stdout=sys.stderr)
        except OSError as error:
            raise UserError(f"can't run {self._argv[0]}: {error.strerror}", code="command") from error

    def stop(self) -> None:
        """End it."""
        import subprocess

        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
