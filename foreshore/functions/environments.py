"""One execution environment: a worker process, its Runtime API listener, and the one invocation it serves. Shell.

An environment goes starting → idle ⇄ busy → dead. Initialization has 10 s; when it fails, it is tried once more inside
the first invocation, under the function's timeout, as AWS does. A handler that raises keeps its environment; a timeout
or an exit ends it. Output is read before the answer to an invocation is given, so that each line belongs to the right
one.

Source: AWS Lambda Developer Guide, "Understanding the Lambda execution environment lifecycle".
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from typing import Protocol, cast

from foreshore.errors import ForeshoreError, PeerError, UserError
from foreshore.functions import outcomes, runtime_api
from foreshore.functions.spec import INIT_LIMIT_S, LOG_TAIL, MAX_RESPONSE, MAX_STREAMED_RESPONSE, FunctionSpec
from foreshore.functions.workers import Worker
from foreshore.seams import InvokeResult


class Invocation:
    """One event on its way through an environment. `done` gets its result; `sink` gets parts of a streamed one."""

    __slots__ = (
        "attempts", "client_context", "cold", "done", "function_arn", "identity", "init_ms", "init_started_ns", "log",
        "parent_id", "parts", "payload", "request_id", "sink", "size", "span_id", "started", "started_ns",
        "trace_header", "trace_id",
    )  # fmt: skip

    def __init__(self, request_id: str, payload: bytes, function_arn: str, done: asyncio.Future[InvokeResult]) -> None:
        self.request_id = request_id
        self.payload = payload
        self.function_arn = function_arn
        self.done = done
        self.client_context = ""
        self.identity = ""
        self.trace_header = ""
        self.trace_id = ""
        self.span_id = ""
        self.parent_id = ""
        self.cold = False
        self.init_ms: float | None = None
        self.init_started_ns = 0
        self.started = 0.0
        self.started_ns = 0
        self.log = bytearray()
        self.sink: Callable[[bytes], None] | None = None
        self.parts: list[bytes] | None = None
        self.size = 0


class Owner(Protocol):
    """Who keeps environments: `invocations.py: Pool`."""

    spec: FunctionSpec

    async def launch(self, environment: Environment) -> Worker:
        """Start a worker for it."""
        ...

    def is_idle(self, environment: Environment) -> None:
        """It can take the next invocation."""
        ...

    def is_busy(self, environment: Environment) -> None:
        """It has taken one."""
        ...

    def is_returning(self, environment: Environment) -> None:
        """It has answered, and will ask for the next at any moment."""
        ...

    def give_back(self, invocation: Invocation) -> None:
        """It ended before it could take an invocation it was promised."""
        ...

    def is_dead(self, environment: Environment) -> None:
        """It is gone."""
        ...

    def finished(self, invocation: Invocation, result: InvokeResult, duration_ns: int, outcome: str) -> None:
        """An invocation is over. `outcome`: "", "error", "timeout" or "exit"."""
        ...

    def wrote(self, line: str, invocation: Invocation | None) -> None:
        """A line of the log."""
        ...


class _Connection(asyncio.Protocol):
    """One connection to the Runtime API of an environment."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.reader = runtime_api.Reader()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.environment.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.environment.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        try:
            events = self.reader.feed(data)
        except PeerError:
            self.transport.abort()
            return
        answers = b""
        for event in events:
            if isinstance(event, runtime_api.Next):
                # An answer that is still unsent goes out with the next event: the worker wakes once, not twice.
                self.environment.wants_next(self.transport, answers)
                answers = b""
            else:
                answers += self.environment.take(event)
        if answers:
            self.transport.write(answers)


class Environment:
    """One execution environment. Made by a pool, which calls `start` and then `serve`."""

    def __init__(self, owner: Owner, environment_id: str, initialization: str = "on-demand") -> None:
        self.owner = owner
        self.spec = owner.spec
        self.environment_id = environment_id
        self.initialization = initialization
        self.state = "starting"
        self.phase = "init"
        self.connections: set[_Connection] = set()
        self.worker: Worker | None = None
        self.current: Invocation | None = None
        self.port = 0
        self.is_stale = False
        self.is_frozen = False
        self.idle_since = 0.0
        self.peak_bytes = 0
        self.is_out_of_memory = False
        self._parked: tuple[asyncio.Transport, bytes] | None = None
        self._promised: Invocation | None = None
        self._server: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._init_payload = b""
        self._init_type = ""
        self._timed_out = False
        self._pending_line = b""
        self._started = 0.0
        self._started_ns = 0
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None

    # Starting

    def start(self, invocation: Invocation | None) -> None:
        """Begin initialization, for an invocation that waits or ahead of any."""
        self.current = invocation
        if invocation is not None:
            invocation.cold = True
        self._task = asyncio.ensure_future(self._start())

    async def _start(self) -> None:
        try:
            if self._server is None:
                self._server = await self._loop.create_server(lambda: _Connection(self), "127.0.0.1", 0)
                self.port = int(self._server.sockets[0].getsockname()[1])
            self._begin_phase()
            worker = await self.owner.launch(self)
        except (OSError, ForeshoreError) as error:
            self._fail_to_start(error)
            return
        if self.state == "dead":
            worker.kill()
            os.close(worker.output)
            return
        self.worker = worker
        if worker.status is not None:
            self.exited(worker.status)
            return
        self._loop.add_reader(worker.output, self._read_output)

    def _begin_phase(self) -> None:
        self._started = time.monotonic()
        self._started_ns = time.time_ns()
        limit = INIT_LIMIT_S
        if self.phase == "invoke":
            limit = self.spec.timeout_s
        elif self.initialization != "on-demand":
            limit = max(130.0, self.spec.timeout_s)
        self._timer = self._loop.call_later(limit, self._init_ran_out)

    def _init_ran_out(self) -> None:
        self._timed_out = True
        if self.worker is not None:
            self.worker.kill()

    def _fail_to_start(self, error: Exception) -> None:
        invocation = self.current
        if invocation is not None and isinstance(error, UserError):
            self._cancel_timer()
            self._write(f"{error}\n")
            self._finish(outcomes.no_entrypoint(invocation.request_id), "error", report="error")
        elif invocation is not None and not invocation.done.done():
            self.current = None
            invocation.done.set_exception(error)
        self.retire()

    def _init_failed(self, status: int) -> None:
        """The runtime ended before its first `next`."""
        outcome = "timeout" if self._timed_out else "error"
        duration_ms = (time.monotonic() - self._started) * 1000
        kind = "" if self._timed_out else self._init_type or "Runtime.ExitError"
        self._write(outcomes.init_report(duration_ms, self.phase, outcome, kind))
        self._forget_worker()
        if self.phase == "init" and self.current is not None:
            self.phase = "invoke"
            self._timed_out = False
            self._init_payload = b""
            invocation = self.current
            invocation.started, invocation.started_ns = time.monotonic(), time.time_ns()
            self._task = asyncio.ensure_future(self._start())
            return
        if self.current is not None:
            self._finish_failed_init(self.current, status)
        self.retire()

    def _finish_failed_init(self, invocation: Invocation, status: int) -> None:
        if self._timed_out:
            payload = outcomes.timed_out(invocation.request_id, self.spec.timeout_s)
        else:
            payload = self._init_payload or outcomes.exited(invocation.request_id, status)
        self._write(outcomes.start_line(invocation.request_id, self.spec.version))
        self._finish(
            payload, "timeout" if self._timed_out else "error", report="timeout" if self._timed_out else "error"
        )

    # Serving

    def serve(self, invocation: Invocation) -> None:
        """Give an idle environment an invocation."""
        self.current = invocation
        self._give()

    def _give(self) -> None:
        invocation = self.current
        assert invocation is not None and self._parked is not None
        self.state = "busy"
        transport, prefix = self._parked
        self._parked = None
        if self.is_frozen:
            self.thaw()
        now, now_ns = time.monotonic(), time.time_ns()
        if not invocation.started:
            invocation.started, invocation.started_ns = now, now_ns
        left_s = self.spec.timeout_s - (now - invocation.started)
        self._timer = self._loop.call_later(left_s, self._ran_out)
        self._write(f"START RequestId: {invocation.request_id} Version: {self.spec.version}\n")
        self.owner.is_busy(self)
        transport.write(
            prefix
            + runtime_api.invocation(
                invocation.request_id,
                now_ns // 1_000_000 + int(left_s * 1000),
                invocation.function_arn,
                invocation.trace_header,
                invocation.payload,
                invocation.client_context,
                invocation.identity,
            )
        )

    def _ran_out(self) -> None:
        """The function's timeout: the environment goes, the invocation fails."""
        invocation = self.current
        if invocation is None or self.worker is None:
            return
        self.worker.kill()
        self._drain()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + f".{time.time_ns() // 1_000_000 % 1000:03d}Z"
        self._write(f"{stamp} {invocation.request_id} {outcomes.timeout_text(self.spec.timeout_s)}\n\n")
        self._finish(outcomes.timed_out(invocation.request_id, self.spec.timeout_s), "timeout", report="timeout")
        self.retire()

    def wants_next(self, transport: asyncio.Transport, answers: bytes) -> None:
        """The runtime asks for an event: initialization or the last invocation is over."""
        self._parked = (transport, answers)
        if self.state == "starting":
            self._initialized()
        elif self.state == "busy" and self.current is None:
            self._returned()

    def _initialized(self) -> None:
        self._cancel_timer()
        self._drain()
        init_ms = (time.monotonic() - self._started) * 1000
        self.state = "idle"
        invocation = self.current
        if invocation is None:
            self._become_idle()
            return
        if self.phase == "init":
            invocation.init_ms, invocation.init_started_ns = init_ms, self._started_ns
        self._give()

    def promise(self, invocation: Invocation) -> None:
        """Take an invocation as soon as the runtime asks for it."""
        self._promised = invocation

    def _returned(self) -> None:
        promised, self._promised = self._promised, None
        if promised is None:
            self._become_idle()
        elif self.is_stale:
            self.owner.give_back(promised)
            self.retire()
        else:
            self.serve(promised)

    def _become_idle(self) -> None:
        if self.is_stale:
            self.retire()
            return
        self.state = "idle"
        self.idle_since = time.monotonic()
        self.owner.is_idle(self)

    def take(self, event: runtime_api.Event) -> bytes:
        """Take what the runtime posted; give the bytes to answer with."""
        if isinstance(event, runtime_api.Result):
            return self._take_result(event)
        if isinstance(event, runtime_api.Failure):
            if not self._is_current(event.request_id):
                return _INVALID_ID
            self._finish(event.body, "error")
            return runtime_api.ACCEPTED
        if isinstance(event, runtime_api.InitFailure):
            self._init_payload, self._init_type = event.body, event.error_type
            return runtime_api.ACCEPTED
        if isinstance(event, runtime_api.ResultHead | runtime_api.ResultPart | runtime_api.ResultEnd):
            return self._take_streamed(event)
        if isinstance(event, runtime_api.RestoreNext):
            return runtime_api.RESTORED
        if isinstance(event, runtime_api.RestoreFailure):
            self._init_payload, self._init_type = event.body, event.error_type
            return runtime_api.ACCEPTED
        if isinstance(event, runtime_api.Unknown):
            self._write(f"Foreshore does not emulate {event.method} {event.path} of the Runtime API.\n")
            return runtime_api.refusal(404, "NotEmulated", f"{event.method} {event.path} is not emulated")
        return b""

    def _take_result(self, event: runtime_api.Result) -> bytes:
        if not self._is_current(event.request_id):
            return _INVALID_ID
        if len(event.body) > MAX_RESPONSE:
            self._finish(outcomes.response_too_big(len(event.body)), "error")
            return runtime_api.refusal(
                413, "Function.ResponseSizeTooLarge", f"Response payload size exceeded maximum ({MAX_RESPONSE} bytes)."
            )
        self._finish(event.body, "")
        return runtime_api.ACCEPTED

    def _take_streamed(self, event: runtime_api.ResultHead | runtime_api.ResultPart | runtime_api.ResultEnd) -> bytes:
        invocation = self.current
        if invocation is None or invocation.request_id != event.request_id:
            return _INVALID_ID if isinstance(event, runtime_api.ResultEnd) else b""
        if isinstance(event, runtime_api.ResultHead):
            invocation.parts = []
        elif isinstance(event, runtime_api.ResultPart):
            invocation.size += len(event.data)
            if invocation.size <= MAX_STREAMED_RESPONSE:
                if invocation.sink is not None:
                    invocation.sink(event.data)
                elif invocation.parts is not None:
                    invocation.parts.append(event.data)
        else:
            self._end_stream(invocation, event)
            return runtime_api.ACCEPTED
        return b""

    def _end_stream(self, invocation: Invocation, event: runtime_api.ResultEnd) -> None:
        body = b"".join(invocation.parts or ())
        if event.error_type:
            self._finish(event.error_body.encode() or body, "error")
        elif invocation.sink is None and len(body) > MAX_RESPONSE:
            self._finish(outcomes.response_too_big(len(body)), "error")
        else:
            self._finish(body, "")

    def _is_current(self, request_id: str) -> bool:
        return self.current is not None and self.current.request_id == request_id

    def _finish(self, payload: bytes, outcome: str, report: str = "") -> None:
        """Report and answer the current invocation."""
        invocation = self.current
        assert invocation is not None
        self._cancel_timer()
        self._drain()
        self.current = None
        if self._pending_line:
            self.owner.wrote(self._pending_line.decode("utf-8", "replace"), invocation)
            self._pending_line = b""
        if self.worker is not None and self.worker.status is None:
            self.peak_bytes = max(self.peak_bytes, self.worker.resident_bytes())
        duration = max(time.monotonic() - (invocation.started or self._started), 0.0)
        used_mb = min(max(self.peak_bytes >> 20, 1), self.spec.memory_mb)
        root = invocation.trace_header[5:40] if self.spec.tracing == "Active" else ""
        self._write(
            outcomes.end_lines(
                invocation.request_id, duration * 1000, self.spec.memory_mb, used_mb, invocation.init_ms, report, root
            ),
            invocation,
        )
        result = InvokeResult(
            payload,
            "Unhandled" if outcome else None,
            200,
            self.spec.version,
            bytes(invocation.log[-LOG_TAIL:]),
            invocation.cold,
            invocation.request_id,
        )
        if outcome in ("", "error") and self.state == "busy" and not self.is_stale:
            self.owner.is_returning(self)
        self.owner.finished(invocation, result, int(duration * 1e9), outcome)

    # The end of the worker

    def exited(self, status: int) -> None:
        """The worker process ended."""
        if self.state == "dead":
            return
        self._drain()
        if self.state == "starting":
            self._cancel_timer()
            self._init_failed(status)
            return
        invocation = self.current
        if invocation is not None:
            if self.is_out_of_memory:
                status = -signal.SIGKILL
            text = outcomes.exit_text(status)
            self._write(f"RequestId: {invocation.request_id} Error: {text}\nRuntime.ExitError\n")
            self._finish(outcomes.exited(invocation.request_id, status), "exit", report="error")
        self.retire()

    def retire(self) -> None:
        """End the environment; a second call does nothing."""
        if self.state == "dead":
            return
        self.state = "dead"
        self._cancel_timer()
        if self.worker is not None:
            self.worker.kill()
        self._forget_worker()
        if self._server is not None:
            self._server.close()
            self._server = None
        self.owner.is_dead(self)
        promised, self._promised = self._promised, None
        if promised is not None:
            self.owner.give_back(promised)

    def _forget_worker(self) -> None:
        if self.worker is not None:
            self._drain()
            self._loop.remove_reader(self.worker.output)
            os.close(self.worker.output)
            if self._pending_line:
                self._emit(self._pending_line + b"\n")
                self._pending_line = b""
            self.worker = None
        for connection in list(self.connections):
            connection.transport.abort()
        self._parked = None

    # Freezing and memory

    def freeze(self) -> None:
        """Stop the idle process group, as AWS freezes an environment between invocations."""
        if self.worker is not None and not self.is_frozen:
            self.worker.signal(signal.SIGSTOP)
            self.is_frozen = True

    def thaw(self) -> None:
        """Let it run again."""
        if self.worker is not None:
            self.worker.signal(signal.SIGCONT)
        self.is_frozen = False

    def check_memory(self) -> None:
        """Note the memory in use, and end the worker when it is over the function's limit."""
        if self.worker is None or self.state != "busy":
            return
        used = self.worker.resident_bytes()
        self.peak_bytes = max(self.peak_bytes, used)
        if used > self.spec.memory_mb << 20:
            self.is_out_of_memory = True
            self.worker.kill()

    # The log

    def _read_output(self) -> None:
        if not self._drain() and self.worker is not None:
            self._loop.remove_reader(self.worker.output)

    def _drain(self) -> bool:
        """Read what the worker has written so far; False at the end of the pipe."""
        if self.worker is None:
            return False
        while True:
            try:
                data = os.read(self.worker.output, 65536)
            except BlockingIOError:
                return True
            except OSError:
                return False
            if not data:
                return False
            self._emit(data)

    def _emit(self, data: bytes) -> None:
        invocation = self.current
        if invocation is not None:
            _append(invocation.log, data)
        *lines, self._pending_line = (self._pending_line + data).split(b"\n")
        for line in lines:
            self.owner.wrote(line.decode("utf-8", "replace"), invocation)

    def _write(self, text: str, invocation: Invocation | None = None) -> None:
        """A line of the platform's own."""
        invocation = invocation or self.current
        if invocation is not None:
            _append(invocation.log, text.encode())
        for line in text.rstrip("\n").split("\n"):
            self.owner.wrote(line, invocation)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _append(log: bytearray, data: bytes) -> None:
    log += data[-LOG_TAIL:]
    if len(log) > 4 * LOG_TAIL:
        del log[:-LOG_TAIL]


_INVALID_ID = runtime_api.refusal(400, "InvalidRequestID", "Invalid request ID")
