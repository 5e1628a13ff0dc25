"""Boot to ready, help, and import: `python benchmarks/bench_boot.py [runs]`. Medians and spread, in seconds.

A peer that boots as an edge of AWS services is MiniStack alone (our own backend child); it is measured in the same run.
"""

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[1]


def boot(home):
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "foreshore", "-C", str(ROOT), "dev", "--json", "--port-base", "0", "--home", home],
        stdout=subprocess.PIPE,
    )
    process.stdout.readline()
    took = time.perf_counter() - begun
    process.send_signal(signal.SIGINT)
    process.communicate()
    return took


def ministack():
    port = 20000 + os.getpid() % 20000
    environment = {
        **os.environ,
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
    }
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "ministack"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/_ministack/health", timeout=1).close()
            break
        except OSError:
            time.sleep(0.01)
    took = time.perf_counter() - begun
    process.terminate()
    process.wait()
    return took


def run(*argv):
    begun = time.perf_counter()
    subprocess.run(argv, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begun


def main():
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    foreshore = str(Path(sys.executable).parent / "foreshore")
    with tempfile.TemporaryDirectory() as fresh:
        first = boot(fresh)
        rows = {
            "boot to ready, example project (goal 2)": [boot(fresh) for _ in range(runs)],
            "ministack alone, to its health page": [ministack() for _ in range(runs)],
            "foreshore --help (goal 0.1)": [run(foreshore, "--help") for _ in range(runs)],
            "python -c pass": [run(sys.executable, "-c", "pass") for _ in range(runs)],
        }
    print(f"{'seconds':<44}{'median':>9}{'min':>9}{'max':>9}")
    print(f"{'very first boot (keys, SAM expansion)':<44}{first:>9.3f}")
    for name, values in rows.items():
        print(f"{name:<44}{statistics.median(values):>9.3f}{min(values):>9.3f}{max(values):>9.3f}")


if __name__ == "__main__":
    main()
