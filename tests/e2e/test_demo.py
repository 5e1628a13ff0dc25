"""The main job: every count reconciles; the page shows rows; a message can be followed from device to table."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import closing

import pytest

from foreshore.traces.store import TraceReader
from tests.e2e.conftest import ROOT

pytestmark = pytest.mark.e2e


def test_the_demo_reconciles(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "foreshore", "-C", str(ROOT), "demo", "--json"],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    counts = json.loads(done.stdout)
    assert counts["failed"] == []
    assert counts["sent"] == 1268 + 4 * 509
    assert counts["windows"] > 100
    assert counts["items"] == counts["windows"] + counts["alerts"]
    assert counts["cold"] >= 1
    assert counts["hits_seen"] >= 1

    with closing(TraceReader(ROOT / ".foreshore" / "demo" / "state" / "traces.db")) as reader:
        services = {service for service, _, _, _ in reader.counts()}
        assert {"iot", "greengrass", "rules", "lambda", "cloudfront"} <= services
        whole = [row for row in reader.latest(5000) if "rule" in row[5] and "devices/" in row[5]]
        assert whole, "no trace reaches from a device's reading to a rule"


def test_the_page_shows_rows_in_a_browser(edge):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium on this machine")
    iot = edge.boto3("iot-data")
    window = {
        "device": "flow-9", "quantity": "flow", "unit": "l/s", "window_start": 1647770400000,
        "window_end": 1647792000000, "count": 6, "mean": 99.5, "min": 90.0, "max": 110.0, "p95": 108.0,
    }  # fmt: skip
    iot.publish(topic="foreshore/windows/flow-9", qos=1, payload=json.dumps(window))
    (base,) = edge.ends["distributions"].values()
    dom = ""
    for _ in range(20):
        dom = subprocess.run(
            [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync", "--timeout=5000",
             "--virtual-time-budget=4000", "--dump-dom", base + "/"],
            capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "HOME": str(edge.home)},
        ).stdout  # fmt: skip
        if "flow-9" in dom:
            break
    assert "flow-9" in dom
    assert "99.5" in dom
