"""Which environment serves an invocation: warm or cold, now or in turn, or not at all. Shell.

`Host` has what all functions share: the launchers, the watch over memory, the freezer, the count of environments. A
`Pool` has the environments of one function version. Over a function's reserved concurrency an invocation is throttled,
as on AWS; over `max_environments`, this machine's own limit, it waits its turn and is never refused.

Source: AWS Lambda Developer Guide, "Understanding Lambda function scaling".
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from foreshore.children import reap_strays
from foreshore.errors import AwsError
from foreshore.functions import outcomes
from foreshore.functions.code_watch import CodeWatch
from foreshore.functions.environments import Environment, Invocation
from foreshore.functions.spec import FunctionSpec
from foreshore.functions.workers import CAN_FORK, WARM_MODULES, Launcher, Order, Spawner, Worker, Zygote, argv_for
from foreshore.seams import (
    EmitLog,
    EmitSpan,
    InvokeResult,
    LogLine,
    Span,
    amzn_trace_id,
    split_traceparent,
    traceparent,
)

MEMORY_PERIOD_S = 0.005
FREEZE_AFTER_S = 0.05
IDLE_LIMIT_S = 900.0

_random = random.Random(random.SystemRandom().getrandbits(128))


def new_uuid() -> str:
    """A version 4 UUID (RFC 9562, section 5.4), as AWS's request ids are."""
    text = f"{_random.getrandbits(128):032x}"
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{'89ab'[int(text[16], 16) & 3]}{text[17:20]}-{text[20:]}"


@dataclass(slots=True)
class Counters:
    """What the scheduler itself saw of one function, all versions together."""

    invocations: int = 0
    cold: int = 0
    warm: int = 0
    errors: int = 0
    timeouts: int = 0
    throttles: int = 0
    reloads: int = 0
    async_pending: int = 0

    def as_dict(self) -> dict[str, int]:
        """For `stats()`."""
        return asdict(self)


@dataclass(slots=True)
class Usage:
    """What all versions of one function share: the reserved concurrency and how much of it is in use."""

    reserved: int | None = None
    in_flight: int = 0
    counters: Counters = field(default_factory=Counters)


class Host:
    """What all pools share."""

    def __init__(
        self,
        *,
        region: str,
        outer: Callable[[], dict[str, str]],
        span: EmitSpan,
        log: EmitLog,
        run_folder: Path,
        client: str = "thin",
        python: str = sys.executable,
        fork: bool = CAN_FORK,
        freeze_after_s: float = FREEZE_AFTER_S,
        max_environments: int = 64,
    ) -> None:
        self.region = region
        self.outer = outer
        self.span = span
        self.log = log
        self.client = client
        self.python = python
        self.max_environments = max_environments
        self.environments: set[Environment] = set()
        self.waiting: deque[Pool] = deque()
        self._freeze_after_s = freeze_after_s
        self._run_folder = run_folder
        self._spawner = Spawner(python)
        self._warm = Zygote(python, WARM_MODULES, run_folder) if fork else None
        self._plain = Zygote(python, ("json", "logging"), run_folder) if fork else None
        self._busy: set[Environment] = set()
        self._watching = False
        self._freezer: asyncio.TimerHandle | None = None
        self.is_stopping = False

    def start(self) -> None:
        """Clear what a killed run left, and begin to warm the fork server."""
        reap_strays(self._run_folder / "workers")
        if self._warm is not None:
            self._warming = asyncio.ensure_future(self._warm.warm())

    async def stop(self) -> None:
        """End every worker."""
        self.is_stopping = True
        if self._freezer is not None:
            self._freezer.cancel()
        for environment in list(self.environments):
            environment.retire()
        for launcher in (self._warm, self._plain, self._spawner):
            if launcher is not None:
                await launcher.stop()

    def launcher(self, spec: FunctionSpec, argv: list[str]) -> Launcher:
        """The fork server whose warm modules this function may see, or the spawner."""
        if argv or self._warm is None or self._plain is None:
            return self._spawner
        # A function that brings its own SDK must not find ours already imported.
        bundles = any((folder / "botocore").is_dir() for folder in (spec.code, *map(Path, spec.import_path())))
        return self._plain if bundles else self._warm

    # Places

    def has_place(self) -> bool:
        """Whether one more environment may start; an idle one of another function makes way."""
        if len(self.environments) < self.max_environments:
            return True
        idle = [each for each in self.environments if each.state == "idle" and each.current is None]
        if not idle:
            return False
        min(idle, key=lambda each: each.idle_since).retire()
        return len(self.environments) < self.max_environments

    def place_is_free(self) -> None:
        """An environment went: start one for whoever has waited longest."""
        while self.waiting and not self.is_stopping and self.has_place():
            self.waiting.popleft().start_waiting()

    # Watches over running environments

    def watch_memory(self, environment: Environment) -> None:
        """Look at its memory every few milliseconds while it is busy."""
        self._busy.add(environment)
        if not self._watching:
            self._watching = True
            asyncio.get_running_loop().call_later(MEMORY_PERIOD_S, self._check_memory)

    def unwatch_memory(self, environment: Environment) -> None:
        """It is idle again, or gone."""
        self._busy.discard(environment)

    def _check_memory(self) -> None:
        if not self._busy:
            self._watching = False
            return
        for environment in list(self._busy):
            environment.check_memory()
        asyncio.get_running_loop().call_later(MEMORY_PERIOD_S, self._check_memory)

    def freeze_later(self) -> None:
        """Freeze environments that stay idle. Lazily: an environment in steady use is never stopped."""
        if self._freezer is None and self._freeze_after_s > 0:
            self._freezer = asyncio.get_running_loop().call_later(self._freeze_after_s, self._freeze)

    def _freeze(self) -> None:
        self._freezer = None
        now = time.monotonic()
        again = False
        for environment in self.environments:
            if environment.state == "idle" and not environment.is_frozen:
                if now - environment.idle_since >= self._freeze_after_s * 0.9:
                    environment.freeze()
                else:
                    again = True
        if again:
            self.freeze_later()

    def reap_idle(self) -> None:
        """End environments that have been idle for long, as AWS reclaims them."""
        now = time.monotonic()
        for environment in list(self.environments):
            if environment.state == "idle" and now - environment.idle_since > IDLE_LIMIT_S:
                environment.retire()


class Pool:
    """The environments of one function version, and the invocations that wait for one."""

    def __init__(self, host: Host, spec: FunctionSpec, usage: Usage) -> None:
        self.host = host
        self.spec = spec
        self.usage = usage
        self.idle: list[Environment] = []
        self.returning: list[Environment] = []
        self.environments: set[Environment] = set()
        self.waiting: deque[Invocation] = deque()
        self._watch: CodeWatch | None = None

    # Invoking

    def submit(self, invocation: Invocation, trace: str | None) -> None:
        """Give an invocation to an environment, or let it wait. Raises AwsError TooManyRequestsException."""
        usage = self.usage
        if usage.reserved is not None and usage.in_flight >= usage.reserved:
            usage.counters.throttles += 1
            raise outcomes.throttled()
        usage.in_flight += 1
        usage.counters.invocations += 1
        self._set_trace(invocation, trace)
        self._reload_if_changed()
        if self.idle:
            usage.counters.warm += 1
            self.idle.pop().serve(invocation)
        elif self.returning:
            # Its runtime is between an answer and its next question: waiting is quicker than a cold start.
            usage.counters.warm += 1
            self.returning.pop().promise(invocation)
        elif self.host.has_place():
            self._start_for(invocation)
        else:
            self.waiting.append(invocation)
            self.host.waiting.append(self)

    def _start_for(self, invocation: Invocation | None) -> None:
        environment = Environment(self, new_uuid().replace("-", ""))
        self.environments.add(environment)
        self.host.environments.add(environment)
        if invocation is not None:
            self.usage.counters.cold += 1
        environment.start(invocation)

    def start_waiting(self) -> None:
        """A place is free: start an environment for the first that still waits."""
        if self.waiting:
            self._start_for(self.waiting.popleft())

    def _set_trace(self, invocation: Invocation, trace: str | None) -> None:
        ids = split_traceparent(trace)
        invocation.span_id = f"{_random.getrandbits(64) | 1:016x}"
        if ids is None:
            invocation.trace_id = f"{int(time.time()):08x}{_random.getrandbits(96):024x}"
        else:
            invocation.trace_id, invocation.parent_id = ids
        invocation.trace_header = amzn_trace_id(traceparent(invocation.trace_id, invocation.span_id))

    def _reload_if_changed(self) -> None:
        """Saved code runs at the next invocation: environments with the old code go."""
        if self._watch is None:
            self._watch = CodeWatch([self.spec.code, *self.spec.layers])
        elif self._watch.changed():
            self.usage.counters.reloads += 1
            self.retire_all()

    def retire_all(self) -> None:
        """End idle environments now and busy ones when they are done."""
        for environment in list(self.environments):
            if environment.state == "idle":
                environment.retire()
            else:
                environment.is_stale = True
        self.idle.clear()

    def close(self) -> None:
        """The version is gone, or its settings are."""
        self.retire_all()
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    # environments.Owner

    async def launch(self, environment: Environment) -> Worker:
        """Start the worker of an environment. Raises OSError, UserError."""
        spec = self.spec
        if not spec.code.is_dir():
            raise AwsError("InvalidCodeException", f"The code folder {spec.code} is not there.", 502)
        argv = argv_for(spec, self.host.client, self.host.python)
        stamp = time.strftime("%Y/%m/%d", time.gmtime())
        variables = spec.variables(
            region=self.host.region,
            log_stream=f"{stamp}/[{spec.version}]{environment.environment_id}",
            runtime_api=f"127.0.0.1:{environment.port}",
            outer=self.host.outer(),
            path=os.environ.get("PATH", os.defpath),
            initialization=environment.initialization,
        )
        return await self.host.launcher(spec, argv).launch(Order(spec, variables, argv), environment.exited)

    def is_idle(self, environment: Environment) -> None:
        """Take the next that waits, or rest."""
        self.host.unwatch_memory(environment)
        self._forget_returning(environment)
        if self.waiting:
            self.host.waiting.remove(self)
            self.usage.counters.warm += 1
            environment.serve(self.waiting.popleft())
            return
        self.idle.append(environment)
        self.host.freeze_later()
        if self.host.waiting:
            self.host.place_is_free()

    def is_returning(self, environment: Environment) -> None:
        """It has answered."""
        self.returning.append(environment)

    def give_back(self, invocation: Invocation) -> None:
        """Find it another environment."""
        self.usage.counters.warm -= 1
        if self.host.has_place():
            self._start_for(invocation)
        else:
            self.waiting.append(invocation)
            self.host.waiting.append(self)

    def is_busy(self, environment: Environment) -> None:
        """It has an invocation."""
        self.host.watch_memory(environment)

    def _forget_returning(self, environment: Environment) -> None:
        if environment in self.returning:
            self.returning.remove(environment)

    def is_dead(self, environment: Environment) -> None:
        """It is gone."""
        self.host.unwatch_memory(environment)
        self.environments.discard(environment)
        self.host.environments.discard(environment)
        self._forget_returning(environment)
        if environment in self.idle:
            self.idle.remove(environment)
        self.host.place_is_free()

    def finished(self, invocation: Invocation, result: InvokeResult, duration_ns: int, outcome: str) -> None:
        """Count, trace and answer."""
        if outcome:
            self.usage.counters.errors += 1
            self.usage.counters.timeouts += outcome == "timeout"
        attributes: dict[str, object] = {"requestId": invocation.request_id, "cold": invocation.cold}
        if outcome:
            attributes["error"] = result.payload[:300].decode("utf-8", "replace")
        name = self.spec.name
        if invocation.init_ms is not None:
            init = Span(
                invocation.trace_id, f"{_random.getrandbits(64) | 1:016x}", invocation.span_id, "lambda",
                f"{name} init", invocation.init_started_ns, int(invocation.init_ms * 1e6), True, None,
            )  # fmt: skip
            self.host.span(init)
        self.host.span(
            Span(
                invocation.trace_id, invocation.span_id, invocation.parent_id, "lambda", name, invocation.started_ns,
                duration_ns, not outcome, attributes,
            )
        )  # fmt: skip
        if not invocation.done.done():
            invocation.done.set_result(result)

    def wrote(self, line: str, invocation: Invocation | None) -> None:
        """Pass a log line on; its level is read from the line where it says one."""
        trace_id = invocation.trace_id if invocation is not None else ""
        self.host.log(
            LogLine(time.time_ns(), "lambda", self.spec.name, level_of(line), trace_id, line.replace("\r", "\n"))
        )


def level_of(line: str) -> str:
    """The level that a Python runtime's log line names, else INFO."""
    if line.startswith("["):
        level = line[1 : line.find("]")]
        if level in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"):
            return level
    return "INFO"


def release(usage: Usage) -> Callable[[Any], None]:
    """A callback that gives back one unit of concurrency."""

    def done(_: Any) -> None:
        usage.in_flight -= 1

    return done
