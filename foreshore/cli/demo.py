"""`foreshore demo`: the main job, end to end, on real sensor data, with every count reconciled.

The edge runs as a process of its own, as a user would start it; this process is everything outside it: the devices, a
subscriber on IoT Core, and an HTTP client at CloudFront.
"""

from __future__ import annotations

import collections
import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from foreshore.cli.simulate import replay
from foreshore.errors import UserError
from foreshore.seams import LogLine
from foreshore.simulate.ledger import Counts, checks, compare, rows
from foreshore.traces.store import TraceReader

SETTLE_SECONDS = 60.0
MARGIN_ROWS = 5
PAGES = ("/", "/api/windows", "/api/alerts", "/api/windows/flow-1")
ROUNDS = 5
COMPONENTS = ("filter", "aggregate", "alert")


@click.command(help="Replay real sensor data through the whole chain and reconcile every count.")
@click.option("--scenario", default="simulations/demo.yaml", show_default=True, help="The fleet.")
@click.option("--rate", type=float, help="Readings a second over the whole fleet.")
@click.option("--json", "as_json", is_flag=True, help="Print the counts as one JSON object.")
@click.pass_context
def command(ctx: click.Context, scenario: str, rate: float | None, as_json: bool) -> None:
    """Run the demo; exit 1 when the numbers do not reconcile."""
    folder = Path(ctx.obj["project"]).resolve()
    path = folder / scenario
    if not path.is_file():
        raise UserError(
            "no such scenario", code="scenario", where=str(path), mend="run the demo in the example's folder"
        )
    with running_edge(folder) as (ends, home):
        say = (lambda text: None) if as_json else click.echo
        say(f"the edge is ready: {ends['aws']}, MQTT {ends['mqtts']}, core {', '.join(ends['cores'])}")
        run = Run(folder, home, ends, say)
        run.wait_for_components()
        run.replay(path, rate)
        run.settle()
        run.browse()
        run.collect()
        failed = run.report(path, as_json)
    ctx.exit(1 if failed else 0)


@contextlib.contextmanager
def running_edge(folder: Path) -> Iterator[tuple[dict[str, Any], Path]]:
    """Start `foreshore dev --json` on free ports with fresh state of its own; stop it in the end."""
    home = folder / ".foreshore" / "demo"
    argv = [sys.executable, "-m", "foreshore", "-C", str(folder), "dev", "--json", "--port-base", "0", "--ephemeral",
            "--home", str(home)]  # fmt: skip
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            code = process.wait()
            raise UserError(f"the edge did not start (exit {code}); its message is above", code="edge")
        yield json.loads(line), home
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Run:
    """One replay and what was counted of it."""

    def __init__(self, folder: Path, home: Path, ends: dict[str, Any], say: Any) -> None:
        self.folder = folder
        self.home = home
        self.ends = ends
        self.say = say
        self.counts = Counts()
        self.windows: list[dict[str, Any]] = []
        self.alerts: list[dict[str, Any]] = []
        self.stats: dict[tuple[str, str], dict[str, Any]] = {}
        self.changed = threading.Condition()
        self.seconds: dict[str, float] = {}
        self._flushes = 0
        self._client = self._subscribe()

    def _subscribe(self) -> Any:
        import paho.mqtt.client as mqtt
        from paho.mqtt.enums import CallbackAPIVersion

        ready = threading.Event()
        client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="demo-observer", protocol=mqtt.MQTTv5)
        client.on_message = self._on_message
        client.on_subscribe = lambda *_: ready.set()
        host, _, port = self.ends["mqtt"].rpartition(":")
        client.connect(host, int(port))
        client.loop_start()
        client.subscribe([("foreshore/windows/+", 1), ("foreshore/alerts/+", 1), ("foreshore/stats/+", 1)])
        if not ready.wait(10):
            raise UserError("IoT Core does not answer a subscription", code="edge")
        return client

    def _on_message(self, _client: object, _userdata: object, message: Any) -> None:
        kind = message.topic.split("/")[1]
        payload = json.loads(message.payload)
        with self.changed:
            if kind == "stats":
                self.stats[payload["component"], payload["run"]] = payload
            else:
                (self.windows if kind == "windows" else self.alerts).append(payload)
            self.changed.notify_all()

    # The steps

    def wait_for_components(self) -> None:
        """A component is RUNNING as soon as its process is; it hears nothing before it has subscribed."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while len(self._ask("count", seconds=1.0)) < len(COMPONENTS):
            if time.monotonic() > deadline:
                raise UserError("the components do not answer", code="component", mend="see `foreshore logs`")

    def replay(self, path: Path, rate: float | None) -> None:
        """Devices publish the recorded series."""
        begun = time.monotonic()
        reports = replay(str(self.folder), path, "core", rate, show_progress=True, ends=self.ends, home=self.home)
        self.seconds["replay"] = time.monotonic() - begun
        for report in reports:
            if report.error:
                raise UserError(f"{report.device}: {report.error}", code="device")
        self.counts.sent = sum(report.acknowledged for report in reports)
        speed = self.counts.sent / self.seconds["replay"]
        took = f"{self.seconds['replay']:.1f} s ({speed:.0f}/s)"
        self.say(f"{len(reports)} devices replayed {self.counts.sent} readings in {took}")

    def _ask(self, word: str, seconds: float = 10.0) -> dict[str, dict[str, Any]]:
        """Send a command to the components; gives each one's own counts."""
        self._flushes += 1
        run = f"{word}-{self._flushes}"
        self._client.publish("foreshore/control", json.dumps({"command": word, "run": run}), qos=1)
        with self.changed:
            self.changed.wait_for(lambda: all((name, run) in self.stats for name in COMPONENTS), seconds)
        return {name: self.stats[name, run] for name in COMPONENTS if (name, run) in self.stats}

    def settle(self) -> None:
        """Wait until nothing moves any more: then close the windows, and wait again for what follows from that."""
        begun = time.monotonic()
        self._until_still(lambda: {name: stats["received"] for name, stats in self._ask("count").items()})
        stats = self._ask("flush")
        missing = set(COMPONENTS) - set(stats)
        if missing:
            raise UserError(
                f"no answer from {', '.join(sorted(missing))}", code="component", mend="see `foreshore logs`"
            )
        self._note_components(stats)
        self._until_still(self._downstream)
        self.seconds["settle"] = time.monotonic() - begun

    def _until_still(self, look: Any) -> None:
        """Look until two looks in a row give the same."""
        deadline = time.monotonic() + SETTLE_SECONDS
        before: object = None
        while time.monotonic() < deadline:
            now = look()
            if now and now == before and not self._pending():
                return
            before = now
            time.sleep(0.3)

    def _pending(self) -> bool:
        functions = self.status().get("functions", {})
        return any(one["async_pending"] for one in functions.values())

    def _downstream(self) -> object:
        return len(self.windows), len(self.alerts), self._matches(), self._invocations(), self._items()

    def _note_components(self, stats: dict[str, dict[str, Any]]) -> None:
        counts = self.counts
        counts.filter_received = stats["filter"]["received"]
        counts.filter_published = stats["filter"]["published"]
        counts.rejected = {reason: number for reason, number in stats["filter"]["rejected"].items() if number}
        counts.aggregate_received = stats["aggregate"]["received"]
        counts.late = sum(stats["aggregate"]["rejected"].values())
        counts.windows = stats["aggregate"]["published"]
        counts.alert_received = stats["alert"]["received"]
        counts.alerts = stats["alert"]["published"]

    def browse(self) -> None:
        """Ask for the page and the API through CloudFront, several times each."""
        (base,) = self.ends["distributions"].values()
        for _ in range(ROUNDS):
            for page in PAGES:
                request = urllib.request.Request(base + page, headers={"User-Agent": "foreshore-demo"})
                try:
                    with urllib.request.urlopen(request, timeout=30) as answer:
                        answer.read()
                        cache = answer.headers.get("X-Cache", "")
                except urllib.error.HTTPError as error:
                    raise UserError(
                        f"GET {page} answered {error.code}: {error.read()[:300]!r}", code="cloudfront"
                    ) from error
                self.counts.requests_made += 1
                self.counts.hits_seen += cache.startswith(("Hit", "RefreshHit"))

    def collect(self) -> None:
        """Read what the stages inside counted."""
        status = self.status()
        counts = self.counts
        counts.received_by_core = sum(core["bridged"] for core in status["cores"].values())
        counts.windows_seen = len(self.windows)
        counts.window_readings = sum(window["count"] for window in self.windows)
        counts.alerts_seen = len(self.alerts)
        counts.rule_matches = self._matches()
        invoked = [one for name, one in status["functions"].items() if "Ingest" in name]
        counts.invocations = sum(one["invocations"] for one in invoked)
        counts.cold = sum(one["cold"] for one in invoked)
        counts.warm = sum(one["warm"] for one in invoked)
        counts.invocation_errors = sum(one["errors"] for one in invoked)
        counts.items = self._items()
        (distribution,) = status["distributions"].values()
        counts.requests_served = distribution["requests"]
        counts.cache_hits = distribution["hits"]
        self._client.disconnect()
        self._client.loop_stop()

    # What it reads

    def status(self) -> dict[str, Any]:
        """The edge's counters."""
        with urllib.request.urlopen(self.ends["aws"] + "/_foreshore/status", timeout=30) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def _matches(self) -> int:
        return int(sum(rule["fired"] for rule in self.status()["rules"].values()))

    def _invocations(self) -> int:
        return int(sum(one["invocations"] for name, one in self.status()["functions"].items() if "Ingest" in name))

    def _items(self) -> int:
        """Scan the table with COUNT, page by page."""
        table = self.status()["stacks"]["cloud-functions"]["TableName"]
        total, start = 0, None
        while True:
            body = {"TableName": table, "Select": "COUNT", **({"ExclusiveStartKey": start} if start else {})}
            page = self._dynamodb("Scan", body)
            total += page["Count"]
            start = page.get("LastEvaluatedKey")
            if not start:
                return int(total)

    def _dynamodb(self, operation: str, body: dict[str, Any]) -> dict[str, Any]:
        scope = f"foreshore/20200101/{self.ends['region']}/dynamodb/aws4_request"
        headers = {
            "X-Amz-Target": f"DynamoDB_20120810.{operation}",
            "Content-Type": "application/x-amz-json-1.0",
            "Authorization": f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0",
        }
        request = urllib.request.Request(self.ends["aws"] + "/", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    # The report

    def report(self, path: Path, as_json: bool) -> bool:
        """Print everything; True when an equation does not hold."""
        results = checks(self.counts)
        failed = [check for check in results if not check.holds]
        if as_json:
            import dataclasses

            row = {
                **dataclasses.asdict(self.counts),
                "seconds": self.seconds,
                "failed": [check.text for check in failed],
            }
            click.echo(json.dumps(row))
            return bool(failed)
        click.echo()
        for stage, number, who in rows(self.counts):
            click.echo(f"  {stage:<24}{number:>8}  {who}")
        click.echo()
        for check in results:
            mark, sign = ("ok ", "=") if check.holds else ("BAD", "≠")
            click.echo(f"  {mark} {check.text}: {check.left} {sign} {check.right}")
        self._compare(path)
        self._mishaps()
        click.echo()
        click.echo(f"  replay {self.seconds['replay']:.1f} s, settling {self.seconds['settle']:.1f} s")
        click.echo("every count reconciles" if not failed else f"{len(failed)} counts do not reconcile")
        return bool(failed)

    def _compare(self, path: Path) -> None:
        from foreshore.simulate.fleet import labels_of, read_source
        from foreshore.simulate.scenario import parse
        from foreshore.simulate.series import readings

        click.echo()
        by_device = collections.defaultdict(list)
        for alert in self.alerts:
            by_device[alert["device"]].append(alert)
        for device in parse(path.read_text("utf-8"), str(path)).devices:
            alerts = by_device[device.name]
            labels = labels_of(device)
            active = sum(alert["state"] == "ACTIVE" for alert in alerts)
            if labels is None:
                click.echo(f"  {device.name:<22} {active} alarms; the series has no labels")
                continue
            times = [
                reading["ts"] for reading in readings(device, read_source(device.source.package, device.source.file))
            ]
            result = compare(device.name, labels, times, alerts, MARGIN_ROWS)
            found = f"{result.found} of {result.labelled} labelled change points"
            click.echo(
                f"  {device.name:<22} {active} alarms; {found} have a state change within {MARGIN_ROWS} samples;"
            )
            click.echo(f"{'':25}{result.unexplained} of {result.alerts} changes are near none")

    def _mishaps(self) -> None:
        status = self.status()
        restarts = status["backend"]["restarts"]
        if restarts:
            click.echo(f"  the backend was restarted {restarts} times: what it had stored before is lost")
        for name, one in status["functions"].items():
            if one["errors"]:
                click.echo(f"  function {name} failed {one['errors']} times: see `foreshore logs --source {name}`")
        for line in self._deaths():
            click.echo(f"  {line.source}: {line.text}; what it held in memory is lost")

    def _deaths(self) -> list[LogLine]:
        """What the core logged of components that failed."""
        path = self.home / "state" / "traces.db"
        with contextlib.closing(TraceReader(path)) as reader:
            return [line for _, line in reader.logs(limit=1_000_000) if "-> ERRORED" in line.text][:10]
