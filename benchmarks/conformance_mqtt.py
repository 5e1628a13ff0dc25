"""Run the Paho project's public MQTT conformance suite against our broker in its standard profile.

The suite is not part of this repository: check out github.com/eclipse/paho.mqtt.testing and pass its folder.

    python benchmarks/conformance_mqtt.py --suite ../paho.mqtt.testing
    python benchmarks/conformance_mqtt.py --suite ../paho.mqtt.testing --only test_retained_message --version 5

Prints one line a test and the sums; exits 1 when a test fails. `--port` judges another broker on this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import io
import sys
import threading
import unittest
from contextlib import redirect_stdout
from pathlib import Path

from foreshore.iot.mqtt.access import AllowAll
from foreshore.iot.mqtt.server import Broker

MODULES = {4: "client_test", 5: "client_test5"}
TOPICS = ("TopicA", "TopicA/B", "Topic/C", "TopicA/C", "/TopicA")
WILD_TOPICS = ("TopicA/+", "+/C", "#", "/#", "/+", "+/+", "TopicA/#")
FORBIDDEN = ("test/nosubscribe",)


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


class Lines(unittest.TextTestResult):
    """One line a test, as it ends."""

    def addSuccess(self, test: unittest.TestCase) -> None:
        super().addSuccess(test)
        print(f"pass  {test.id()}", file=sys.stderr, flush=True)

    def addFailure(self, test: unittest.TestCase, err: object) -> None:
        super().addFailure(test, err)  # type: ignore[arg-type]
        print(f"FAIL  {test.id()}", file=sys.stderr, flush=True)

    def addError(self, test: unittest.TestCase, err: object) -> None:
        super().addError(test, err)  # type: ignore[arg-type]
        print(f"ERROR {test.id()}", file=sys.stderr, flush=True)


def run(version: int, port: int, only: list[str]) -> unittest.TestResult:
    """Run one version's module of the suite."""
    module = importlib.import_module(MODULES[version])
    module.host, module.port = "127.0.0.1", port  # type: ignore[attr-defined]
    module.topics, module.wildtopics, module.nosubscribe_topics = TOPICS, WILD_TOPICS, FORBIDDEN  # type: ignore[attr-defined]
    module.topic_prefix = ""  # type: ignore[attr-defined]
    loader = unittest.TestLoader()
    loader.testMethodPrefix = "test"
    tests = loader.loadTestsFromTestCase(module.Test)
    if only:
        tests = unittest.TestSuite(test for test in tests if test.id().rpartition(".")[2] in only)
    report = io.StringIO()
    with redirect_stdout(io.StringIO()):
        result = unittest.TextTestRunner(stream=report, resultclass=Lines).run(tests)
    if not result.wasSuccessful():
        print(report.getvalue())
    print(
        f"MQTT {'3.1.1' if version == 4 else '5.0'}: {result.testsRun - len(result.failures) - len(result.errors)} "
        f"of {result.testsRun} pass"
    )
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", type=Path, required=True, help="folder of a checkout of paho.mqtt.testing")
    parser.add_argument("--version", type=int, choices=(4, 5), help="only this protocol level")
    parser.add_argument("--port", type=int, help="judge the broker on this port of 127.0.0.1 instead of ours")
    parser.add_argument("--only", nargs="*", default=[], help="names of tests")
    options = parser.parse_args()
    sys.path.insert(0, str((options.suite / "interoperability").resolve()))
    port = options.port or start_broker()
    results = [run(version, port, options.only) for version in ((options.version,) if options.version else (4, 5))]
    return 0 if all(result.wasSuccessful() for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
