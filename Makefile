# `make demo` and `make test` do all the set-up on a machine that has Python 3.11+ and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export PIP_DISABLE_PIP_VERSION_CHECK = 1
export PIP_NO_INPUT = 1

.PHONY: help setup demo dev test fuzz check bench docs lock clean

help:
	@echo "make demo   replay real sensor data through the whole chain and reconcile every count"
	@echo "make dev    start the local AWS edge"
	@echo "make test   pass the tests"
	@echo "make fuzz   search for bytes that break the MQTT broker or a core (SECONDS=60 a target; needs atheris)"
	@echo "make check  types, style, imports, documents"
	@echo "make bench  boot time, import time and each room's benchmark"
	@echo "make docs   write the generated documents again"

setup: $(READY)

# --no-deps with hashes: what is installed is exactly the lock, whatever the packages ask for beyond it.
$(READY): requirements/dev.lock requirements/data.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "foreshore needs Python 3.11 or newer; name one with PYTHON=..."; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the locked packages into $(VENV) ..."
	@$(BIN)/python -m pip install -q --no-deps --require-hashes -r requirements/dev.lock
	@$(BIN)/python -m pip install -q --no-deps --require-hashes -r requirements/data.lock
	@$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .
	@touch $(READY)

demo: $(READY)
	@$(BIN)/foreshore demo

dev: $(READY)
	@$(BIN)/foreshore dev

test: $(READY)
	@$(BIN)/python -m pytest

SECONDS ?= 60
fuzz: $(READY)
	@for target in decoder frames broker recipe deployment ipc; do \
		$(BIN)/python tests/fuzz/run.py $$target --seconds $(SECONDS) --corpus .foreshore/fuzz/$$target || exit 1; done

check: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m foreshore.cli.reference --check
	@$(BIN)/foreshore parity --markdown | diff -u docs/parity.md - || { echo "run make docs"; exit 1; }

bench: $(READY)
	@$(BIN)/python benchmarks/bench_boot.py

bench-%: $(READY)
	@$(BIN)/python benchmarks/bench_$*.py

docs: $(READY)
	@$(BIN)/foreshore parity --markdown > docs/parity.md
	@$(BIN)/python -m foreshore.cli.reference

# Locks are made with uv (pip install uv); --universal covers every platform and Python from 3.11 on.
lock:
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock" \
		requirements/runtime.in -o requirements/runtime.lock
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock" \
		--override requirements/overrides.txt requirements/dev.in -o requirements/dev.lock
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock" \
		--no-deps requirements/data.in -o requirements/data.lock

clean:
	rm -rf $(VENV) .foreshore
