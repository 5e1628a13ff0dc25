"""Actions run beside the message path: each rule's queue, workers, retries, error action, spans and logs. Shell.

Each rule has a bound of its own (`WORKERS` at a time, `MAX_PENDING` waiting), so a rule whose target is down holds up
no other. A transient failure is tried again with growing pauses; while a target stays down, later messages try once,
or not at all when it did not even refuse. What fails in the end becomes one document for the error action.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import orjson

from foreshore.errors import AwsError
from foreshore.iot.rules.actions.call import Call, World
from foreshore.iot.rules.actions.failures import ActionFailed, Failure, action_name, error_document
from foreshore.iot.rules.definition import Definition, PlannedAction
from foreshore.iot.rules.executions import entry
from foreshore.iot.rules.message import Message, Result, RuleFailed
from foreshore.iot.rules.values import NotJson, Value
from foreshore.seams import EmitLog, EmitSpan, Publication, Span, traceparent

WORKERS = 8
MAX_PENDING = 10_000
MAX_RECORDS = 20
ATTEMPTS = 3
FIRST_PAUSE_S = 0.1
DOWN_S = 5.0
SLOW_S = 2.0

# Shared by all spans, which nobody changes.
_FIRED: dict[str, object] = {"matched": True, "where": True, "fired": True}
_NOT_FIRED: dict[str, object] = {"matched": True, "where": False, "fired": False}


@dataclass(slots=True)
class Outcome:
    """What became of one action for one message."""

    action: str
    resource: str
    outcome: str
    error: str
    parameters: dict[str, Any] | None
    attempts: int = 1

    def describe(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "action": self.action, "resource": self.resource, "outcome": self.outcome, "error": self.error,
            "attempts": self.attempts, "parameters": self.parameters,
        }  # fmt: skip


@dataclass(slots=True)
class Record:
    """One message that a rule saw. `result` is None while an evaluation in a thread is not done."""

    message: Message
    trace_id: str
    span_id: str
    depth: int
    start_ns: int
    result: Result | None = None
    outcomes: list[Outcome] = field(default_factory=list)


class Down(NamedTuple):
    """An action's target that failed to the end: tried sparingly until then (monotonic seconds)."""

    until: float
    is_slow: bool
    error: str


class LiveRule:
    """One rule with its queue, its counters and its last messages."""

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        self.enabled = not definition.disabled
        self.span_name = f"rule {definition.name}"
        self.handle: Any = None
        self.pending: deque[Record] = deque()
        self.overflow: deque[Record] = deque()
        self.workers: set[asyncio.Task[None]] = set()
        self.records: deque[Record] = deque(maxlen=MAX_RECORDS)
        self.down: dict[int, Down] = {}
        self.matched = self.fired = self.failed = self.dropped = 0

    def describe(self) -> dict[str, Any]:
        """Counters and settings as plain values."""
        definition = self.definition
        return {
            "name": definition.name, "sql": definition.rule.sql, "version": definition.rule.version,
            "filter": definition.rule.topic_filter, "enabled": self.enabled, "matched": self.matched,
            "fired": self.fired, "failed": self.failed, "dropped": self.dropped, "pending": len(self.pending),
            "actions": [action.kind.key for action in definition.actions],
        }  # fmt: skip


class Runner:
    """Runs what `enqueue` is given. `republish` publishes a message and is told how often it was republished."""

    def __init__(
        self,
        world: World,
        *,
        republish: Callable[[int, Publication], None],
        span: EmitSpan,
        log: EmitLog,
        check_roles: bool,
    ) -> None:
        self.stopping = False
        self._world = world
        self._republish = republish
        self._span = span
        self._log = log
        self._check_roles = check_roles
        self._span_count = int.from_bytes(os.urandom(8), "big")

    def new_span_id(self) -> str:
        """16 hex digits: a count from a random start, mixed so that neighbours look unlike; never all zero."""
        self._span_count = count = (self._span_count + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        return f"{count or 1:016x}"

    def evaluated(self, live: LiveRule, record: Record, result: Result, parent: str) -> None:
        """Record an evaluation: its span, and a log entry when it failed."""
        now = time.time_ns()
        attributes = _FIRED if result.fired else _NOT_FIRED
        if result.error:
            attributes = {**_NOT_FIRED, "error": result.error}
            live.failed += 1
            self._log(
                entry(
                    "FunctionExecution", level="ERROR", now_ns=now, account=self._world.account,
                    rule=live.definition.name, message=record.message, trace_id=record.trace_id, details=result.error,
                )
            )  # fmt: skip
        self._span(
            Span(
                record.trace_id, record.span_id, parent, "rules", live.span_name, record.start_ns,
                now - record.start_ns, not result.error, attributes,
            )
        )  # fmt: skip

    def enqueue(self, live: LiveRule, record: Record) -> None:
        """Queue the actions of a rule that fired (or the evaluation itself, when it may block)."""
        if not live.definition.actions and not live.definition.has_external:
            live.fired += 1
            return
        if len(live.pending) >= MAX_PENDING or self.stopping:
            self._overflow(live, record)
            return
        live.pending.append(record)
        self._ensure_worker(live)

    def _ensure_worker(self, live: LiveRule) -> None:
        if len(live.workers) < WORKERS:
            live.workers.add(asyncio.ensure_future(self._work(live)))

    def _overflow(self, live: LiveRule, record: Record) -> None:
        """The queue is full: the actions are not run, but the error action and the log are told."""
        live.dropped += 1
        text = f"the rule's queue of {MAX_PENDING} messages is full: its actions were not run"
        record.outcomes.append(Outcome("", "", "dropped", text, None))
        self._log(
            entry(
                "RuleMessageThrottled", level="ERROR", now_ns=time.time_ns(), account=self._world.account,
                rule=live.definition.name, message=record.message, trace_id=record.trace_id, details=text,
            )
        )  # fmt: skip
        told = live.definition.error_action is not None and record.result is not None
        if told and len(live.overflow) < MAX_PENDING and not self.stopping:
            live.overflow.append(record)
            self._ensure_worker(live)

    async def _work(self, live: LiveRule) -> None:
        try:
            while live.pending or live.overflow:
                serve, queue = (self._tell, live.overflow) if live.overflow else (self._serve, live.pending)
                try:
                    await serve(live, queue.popleft())
                except Exception as error:
                    loop = asyncio.get_running_loop()
                    loop.call_exception_handler({"message": f"rule {live.definition.name} failed", "exception": error})
        finally:
            # Not in a callback: a message that comes before it ran would find no worker.
            task = asyncio.current_task()
            if task is not None:
                live.workers.discard(task)

    async def _tell(self, live: LiveRule, record: Record) -> None:
        """Only the error action, for a message whose actions found the queue full."""
        text = record.outcomes[0].error
        failures = [
            Failure(action_name(action.kind.key), action.kind.resource(action.parameters.values), text)
            for action in live.definition.actions
        ]
        await self._run_error_action(live, record, failures)

    async def _serve(self, live: LiveRule, record: Record) -> None:
        definition = live.definition
        result = record.result
        if result is None:
            result = record.result = await asyncio.to_thread(definition.rule.apply, record.message)
            self.evaluated(live, record, result, "")
            if not result.fired:
                return
        live.fired += 1
        if not definition.actions:
            return
        try:
            payload = result.payload
        except NotJson as error:
            record.result = Result(False, where=result.where, error=str(error), old=result.old)
            self.evaluated(live, record, record.result, "")
            return
        call = partial(self._act, live, record, result.value, payload)
        if len(definition.actions) == 1:
            done = [await call(0, definition.actions[0])]
        else:
            done = await asyncio.gather(*(call(i, action) for i, action in enumerate(definition.actions)))
        failures = [failure for failure in done if failure is not None]
        if not failures:
            return
        live.failed += 1
        await self._run_error_action(live, record, failures)

    async def _run_error_action(self, live: LiveRule, record: Record, failures: list[Failure]) -> None:
        action = live.definition.error_action
        if action is not None:
            document = error_document(live.definition.name, record.message, failures)
            await self._act(live, record, document, orjson.dumps(document), -1, action)

    async def _act(
        self, live: LiveRule, record: Record, value: Value, payload: bytes, place: int, action: PlannedAction
    ) -> Failure | None:
        """Run one action to its end. A failure is recorded, logged and returned."""
        start = time.time_ns()
        span_id = self.new_span_id()
        key = action.kind.key
        outcome = Outcome(key, action.kind.resource(action.parameters.values), "ok", "", None, 0)
        record.outcomes.append(outcome)
        assert record.result is not None
        try:
            parameters = await self._render(action, record)
            outcome.parameters, outcome.resource = parameters, action.kind.resource(parameters)
            call = Call(
                live.definition.name, record.message, value, payload, live.definition.rule.old, self._world,
                traceparent(record.trace_id, span_id), record.depth,
            )  # fmt: skip
            call.notes["publish"] = partial(self._republish, record.depth + 1)
            if self._check_roles:
                from foreshore.iot.rules.actions.roles import check

                await check(call, action.kind, parameters)
            await self._attempt(live, place, outcome, partial(action.kind.load(), call, parameters))
        except (ActionFailed, RuleFailed, AwsError) as error:
            outcome.outcome, outcome.error = "failed", str(error)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            # A parameter of a shape that the service model does not allow.
            outcome.outcome, outcome.error = "failed", f"bad parameter: {type(error).__name__}: {error}"
        self._acted(live, record, outcome, start, span_id)
        if outcome.outcome == "ok":
            return None
        return Failure(action_name(key), outcome.resource, outcome.error)

    async def _render(self, action: PlannedAction, record: Record) -> dict[str, Any]:
        assert record.result is not None
        parameters, variables = action.parameters, record.result.variables
        if parameters.has_external:
            return await asyncio.to_thread(parameters.render, record.message, variables)
        return parameters.render(record.message, variables)

    async def _attempt(self, live: LiveRule, place: int, outcome: Outcome, run: Callable[[], Awaitable[None]]) -> None:
        started = time.monotonic()
        down = live.down.get(place)
        attempts = ATTEMPTS
        if down is not None and down.until > started:
            if down.is_slow:
                # A target that does not even refuse would hold every worker for its whole timeout.
                raise ActionFailed(f"not tried, because the target did not answer a moment ago: {down.error}")
            attempts = 1
        pause = FIRST_PAUSE_S
        while True:
            outcome.attempts += 1
            try:
                await run()
            except ActionFailed as error:
                if not error.transient:
                    raise
                now = time.monotonic()
                is_slow = now - started > SLOW_S
                if is_slow or outcome.attempts >= attempts or self.stopping:
                    live.down[place] = Down(now + DOWN_S, is_slow, str(error))
                    raise
                await asyncio.sleep(pause)
                pause *= 4
            else:
                if live.down:
                    live.down.pop(place, None)
                return

    def _acted(self, live: LiveRule, record: Record, outcome: Outcome, start: int, span_id: str) -> None:
        now = time.time_ns()
        ok = outcome.outcome == "ok"
        attributes: dict[str, object] = {"rule": live.definition.name, "resource": outcome.resource}
        if not ok:
            attributes["error"] = outcome.error
        self._span(
            Span(
                record.trace_id, span_id, record.span_id, "rules", f"action {outcome.action}", start, now - start, ok,
                attributes,
            )
        )  # fmt: skip
        more = {"ruleAction": action_name(outcome.action), "resources": {"resource": outcome.resource}}
        if not ok:
            more["details"] = outcome.error
        self._log(
            entry(
                "RuleExecution", level="INFO" if ok else "ERROR", now_ns=now, account=self._world.account,
                rule=live.definition.name, message=record.message, trace_id=record.trace_id, **more,
            )
        )  # fmt: skip
