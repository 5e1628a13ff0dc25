"""Search for bytes that break a target: `make fuzz`, or `python tests/fuzz/run.py broker --seconds 600`.

Needs atheris (`pip install atheris`; wheels for Linux and CPython); where it is missing the command says so and ends
well. What it finds is written to the folder of `--corpus`, or to the target's own corpus, from which `test_corpus.py`
and `tests/greengrass/test_fuzz.py` replay it for ever.
"""

import argparse
import importlib
import sys
from pathlib import Path

HERE = Path(__file__).parent
MODULES = {
    "mqtt_targets": ("decoder", "frames", "broker"),
    "greengrass_targets": ("recipe", "deployment", "ipc"),
}
MODULE_OF = {target: module for module, targets in MODULES.items() for target in targets}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", nargs="?", default="broker", choices=list(MODULE_OF))
    parser.add_argument("--seconds", type=int, default=60, help="how long to search")
    parser.add_argument("--corpus", type=Path, help="a folder that keeps interesting inputs between runs")
    options = parser.parse_args()
    try:
        import atheris
    except ImportError as error:
        print(f"skipped: atheris is not installed here ({error}); pip install atheris", file=sys.stderr)
        return 0
    sys.path.insert(0, str(HERE))
    module = MODULE_OF[options.target]
    with atheris.instrument_imports(include=["foreshore", module]):
        targets = importlib.import_module(module).TARGETS
    folders = [str(HERE / "corpus" / options.target)]
    if options.corpus is not None:
        options.corpus.mkdir(parents=True, exist_ok=True)
        folders.insert(0, str(options.corpus))
    argv = [sys.argv[0], f"-max_total_time={options.seconds}", "-max_len=2048", "-timeout=10", "-rss_limit_mb=2048"]
    argv += [f"-artifact_prefix={folders[0]}/", "-print_final_stats=1", *folders]
    atheris.Setup(argv, targets[options.target])
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
