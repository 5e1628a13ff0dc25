"""Run the Paho project's public MQTT conformance suite against our broker in its standard profile.

The suite is not part of this repository: check out github.com/eclipse/paho.mqtt.testing and pass its folder.

    python benchmarks/conformance_mqtt.py --suite ../paho.mqtt.testing
    python benchmarks/conformance_mqtt.py --suite ../paho.mqtt.testing --only test_retained_message --version 5

Prints one line a test as it ends, then a table and the sums; exits 1 when a test fails. `--markdown` prints the table
as docs/conformance.md has it. `--port` judges another broker on this machine (in its standard profile).
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import io
import logging
import sys
import threading
import time
import unittest
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

from foreshore.iot.mqtt.access import AllowAll
from foreshore.iot.mqtt.server import Broker

MODULES = {4: "client_test", 5: "client_test5"}
NAMES = {4: "3.1.1", 5: "5.0"}
TOPICS = ("TopicA", "TopicA/B", "Topic/C", "TopicA/C", "/TopicA")
WILD_TOPICS = ("TopicA/+", "+/C", "#", "/#", "/+", "+/+", "TopicA/#")
FORBIDDEN = ("test/nosubscribe",)


class Outcome(NamedTuple):
    """One test: `seconds` it took, `why` it failed ("" when it passed)."""

    name: str
    version: int
    seconds: float
    why: str


class SuiteAccess(AllowAll):
    """Allows everything but the filter that `test_subscribe_failure` wants refused."""

    def may_subscribe(self, identity: object, filter: str, /) -> bool:
        return filter not in FORBIDDEN


def start_broker() -> int:
    """Serve the standard profile from a thread for as long as this process lives; give the port."""
    ready: list[int] = []
    is_up = threading.Event()

    async def serve() -> None:
        broker = Broker(profile="standard", access=SuiteAccess(), rate_limits=False)
        ready.append(await broker.listen("127.0.0.1", 0))
        is_up.set()
        await asyncio.Event().wait()

    threading.Thread(target=lambda: asyncio.run(serve()), daemon=True).start()
    is_up.wait()
    return ready[0]


class Lines(unittest.TestResult):
    """Collects outcomes and tells of each as it ends."""

    def __init__(self, version: int, out: object) -> None:
        super().__init__()
        self.version = version
        self.out = out
        self.outcomes: list[Outcome] = []
        self.begun = 0.0

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self.begun = time.perf_counter()

    def note(self, test: unittest.TestCase, why: str) -> None:
        name = test.id().rpartition(".")[2]
        self.outcomes.append(Outcome(name, self.version, time.perf_counter() - self.begun, why))
        line = f"{'FAIL' if why else 'pass'}  MQTT {NAMES[self.version]:<6} {name}  {why}"
        print(line.rstrip(), file=self.out, flush=True)  # type: ignore[call-overload]

    def addSuccess(self, test: unittest.TestCase) -> None:
        super().addSuccess(test)
        self.note(test, "")

    def addFailure(self, test: unittest.TestCase, err: object) -> None:
        super().addFailure(test, err)  # type: ignore[arg-type]
        self.note(test, self.failures[-1][1].strip().rpartition("\n")[2])

    def addError(self, test: unittest.TestCase, err: object) -> None:
        super().addError(test, err)  # type: ignore[arg-type]
        self.note(test, self.errors[-1][1].strip().rpartition("\n")[2])


def run(version: int, port: int, only: list[str], verbose: bool) -> list[Outcome]:
    """Run one version's module of the suite. The suite's own chatter is shown with `verbose` alone."""
    module = importlib.import_module(MODULES[version])
    module.host, module.port = "127.0.0.1", port  # type: ignore[attr-defined]
    module.topics, module.wildtopics, module.nosubscribe_topics = TOPICS, WILD_TOPICS, FORBIDDEN  # type: ignore[attr-defined]
    module.topic_prefix = ""  # type: ignore[attr-defined]
    loader = unittest.TestLoader()
    loader.testMethodPrefix = "test"
    tests = loader.loadTestsFromTestCase(module.Test)
    if only:
        tests = unittest.TestSuite(test for test in tests if test.id().rpartition(".")[2] in only)
    result = Lines(version, sys.stderr)
    if verbose:
        tests.run(result)
    else:
        logging.disable(logging.CRITICAL)
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            tests.run(result)
    return result.outcomes


def table(outcomes: list[Outcome], markdown: bool) -> str:
    """Tests by name, a column a version, and the sums."""
    versions = sorted({one.version for one in outcomes})
    cells = {(one.name, one.version): "fail" if one.why else "pass" for one in outcomes}
    rows = [
        [name, *(cells.get((name, version), "") for version in versions)]
        for name in dict.fromkeys(o.name for o in outcomes)
    ]
    head = ["test", *(f"MQTT {NAMES[version]}" for version in versions)]
    sums = ["passed"]
    for version in versions:
        mine = [one for one in outcomes if one.version == version]
        sums.append(f"{sum(not one.why for one in mine)} of {len(mine)}")
    rows.append(sums)
    if markdown:
        lines = ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]
        return "\n".join(lines)
    return "\n".join(f"{row[0]:<32}" + "".join(f"{cell:<12}" for cell in row[1:]) for row in [head, *rows])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", type=Path, required=True, help="folder of a checkout of paho.mqtt.testing")
    parser.add_argument("--version", type=int, choices=(4, 5), help="only this protocol level")
    parser.add_argument("--port", type=int, help="judge the broker on this port of 127.0.0.1 instead of ours")
    parser.add_argument("--only", nargs="*", default=[], help="names of tests")
    parser.add_argument("--markdown", action="store_true", help="print the table in Markdown")
    parser.add_argument("--verbose", action="store_true", help="show what the suite itself prints")
    options = parser.parse_args()
    folder = options.suite / "interoperability"
    if not (folder / "client_test5.py").is_file():
        parser.error(f"{options.suite} is not a checkout of paho.mqtt.testing")
    sys.path.insert(0, str(folder.resolve()))
    port = options.port or start_broker()
    outcomes: list[Outcome] = []
    for version in (options.version,) if options.version else (4, 5):
        outcomes += run(version, port, options.only, options.verbose)
    print(table(outcomes, options.markdown))
    return 1 if any(one.why for one in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
