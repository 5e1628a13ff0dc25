"""Asynchronous invocations: accepted at once, kept until they are done, retried, then handed to destinations. Shell.

AWS's pace: two retries after 1 and 2 minutes for a function's error; for throttles and errors of the service, waits of
1 s doubling up to 5 minutes until the event is 6 hours old. `time_scale` multiplies every wait. An accepted event is in
SQLite before the caller gets its 202, and is taken up again after a kill -9 (delivery is at least once, as on AWS).

Source: AWS Lambda Developer Guide, "How Lambda handles errors and retries with asynchronous invocation", "Capturing
records of Lambda asynchronous invocations".
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson

from foreshore.errors import AwsError, ForeshoreError, NotEmulated
from foreshore.functions import outcomes
from foreshore.functions.invocations import new_uuid
from foreshore.functions.registry import Function
from foreshore.functions.spec import LATEST, FunctionName
from foreshore.seams import InvokeResult

if TYPE_CHECKING:
    from foreshore.functions.service import Functions

RETRY_WAITS_S = (60.0, 120.0)
THROTTLE_FIRST_S = 1.0
THROTTLE_MOST_S = 300.0


@dataclass(slots=True)
class Event:
    """One accepted event. Times are epoch seconds."""

    request_id: str
    function: str
    qualifier: str
    payload: bytes
    client_context: bytes | None
    trace: str | None
    accepted: float
    attempts: int = 0


class AsyncInvokes:
    """The queue of accepted events: one task each, so that a slow function holds up no other."""

    def __init__(self, functions: Functions, time_scale: float) -> None:
        self._functions = functions
        self._time_scale = time_scale
        self._tasks: set[asyncio.Task[None]] = set()
        self._database = functions.store.database

    async def start(self) -> None:
        """Take up what an earlier run accepted and did not finish."""
        rows = self._database.execute("SELECT * FROM events ORDER BY accepted").fetchall()
        for request_id, function, qualifier, payload, context, trace, accepted, attempts, due in rows:
            event = Event(request_id, function, qualifier, payload, context, trace, accepted, attempts)
            self._begin(event, max(due - time.time(), 0.0))

    async def stop(self) -> None:
        """Let go of the tasks; unfinished events stay in the database."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def accept(
        self, function: str, qualifier: str, payload: bytes, client_context: bytes | None, trace: str | None
    ) -> str:
        """Take an event; give its request id. It is on disk when this returns."""
        now = time.time()
        event = Event(new_uuid(), function, qualifier, payload, client_context, trace, now)
        self._database.execute(
            "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, 0, ?)",
            (event.request_id, function, qualifier, payload, client_context, trace, now, now),
        )
        self._begin(event, 0.0)
        return event.request_id

    def _begin(self, event: Event, wait_s: float) -> None:
        self._functions.usage(event.function).counters.async_pending += 1
        task = asyncio.ensure_future(self._process(event, wait_s))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _process(self, event: Event, wait_s: float) -> None:
        """Try until it succeeds, its retries are used up or it is too old."""
        throttle_wait = THROTTLE_FIRST_S
        try:
            while True:
                if wait_s:
                    await asyncio.sleep(wait_s)
                found = self._settings(event)
                if found is None:
                    break
                function, config = found
                if self._is_too_old(event, config):
                    await self._failed(event, function, config, "EventAgeExceeded", None)
                    break
                try:
                    result = await self._attempt(event)
                except AwsError as error:
                    if (error.status not in (429,) and error.status < 500) or isinstance(error, NotEmulated):
                        self._functions.warn(event.function, f"event {event.request_id} dropped: {error}")
                        break
                    wait_s, throttle_wait = throttle_wait * self._time_scale, min(throttle_wait * 2, THROTTLE_MOST_S)
                    self._keep(event, wait_s)
                    continue
                event.attempts += 1
                if result.function_error is None:
                    await self._send(config.get("on_success", ""), event, function, "Success", result)
                    break
                if event.attempts > int(config.get("retries", 2)):
                    await self._failed(event, function, config, "RetriesExhausted", result)
                    break
                wait_s = RETRY_WAITS_S[min(event.attempts, 2) - 1] * self._time_scale
                self._keep(event, wait_s)
            self._database.execute("DELETE FROM events WHERE request_id = ?", (event.request_id,))
        except ForeshoreError as error:
            self._functions.warn(event.function, f"event {event.request_id}: {error}")
        finally:
            self._functions.usage(event.function).counters.async_pending -= 1

    def _keep(self, event: Event, wait_s: float) -> None:
        self._database.execute(
            "UPDATE events SET attempts = ?, next = ? WHERE request_id = ?",
            (event.attempts, time.time() + wait_s, event.request_id),
        )

    async def _attempt(self, event: Event) -> InvokeResult:
        functions = self._functions
        name = FunctionName(event.function, event.qualifier)
        function, version = functions.registry.resolve(name)
        arn = functions.registry.arn(event.function, event.qualifier)
        return await functions.run(
            function, version, event.payload, arn,
            client_context=event.client_context, traceparent=event.trace, request_id=event.request_id,
        )  # fmt: skip

    def _settings(self, event: Event) -> tuple[Function, dict[str, Any]] | None:
        function = self._functions.registry.functions.get(event.function)
        if function is None:
            return None
        spec = function.latest.spec
        config = {
            "retries": spec.retries, "max_age": spec.max_event_age_s, "on_success": spec.on_success,
            "on_failure": spec.on_failure, "dead_letter": spec.dead_letter_arn,
        }  # fmt: skip
        return function, {**config, **function.invoke_configs.get(event.qualifier or LATEST, {})}

    def _is_too_old(self, event: Event, config: dict[str, Any]) -> bool:
        limit = float(config.get("max_age", 21600)) * self._time_scale
        return time.time() - event.accepted > limit and event.attempts > 0

    async def _failed(
        self, event: Event, function: Function, config: dict[str, Any], condition: str, result: InvokeResult | None
    ) -> None:
        await self._send(config.get("on_failure", ""), event, function, condition, result)
        target = config.get("dead_letter", "")
        if not target:
            return
        attributes = outcomes.dead_letter_attributes(event.request_id, result.payload if result else None)
        try:
            if ":sqs:" in target:
                await self._functions.aws.send_message(target, event.payload.decode("utf-8", "replace"), attributes)
            elif ":sns:" in target:
                await self._functions.aws.publish(target, event.payload.decode("utf-8", "replace"))
            else:
                raise NotEmulated(f"the dead-letter target {target}")
        except (ForeshoreError, OSError, TimeoutError) as error:
            self._functions.warn(function.name, f"dead letter for {target} lost: {error}")

    async def _send(
        self, target: str, event: Event, function: Function, condition: str, result: InvokeResult | None
    ) -> None:
        if not target:
            return
        arn = self._functions.registry.arn(event.function, event.qualifier or LATEST)
        record = outcomes.destination_record(
            timestamp=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z",
            request_id=event.request_id,
            function_arn=arn,
            condition=condition,
            attempts=event.attempts,
            request_payload=event.payload,
            response_payload=result.payload if result else None,
            executed_version=result.executed_version if result else LATEST,
            function_error=result.function_error if result else None,
        )
        try:
            await deliver(self._functions, target, record, arn)
        except (ForeshoreError, OSError, TimeoutError) as error:
            self._functions.warn(function.name, f"destination {target} was not reached: {error}")


async def deliver(functions: Functions, target: str, record: dict[str, Any], function_arn: str) -> None:
    """Send a record to a destination by its ARN. Raises AwsError, OSError; NotEmulated for other services."""
    body = orjson.dumps(record)
    if ":sqs:" in target:
        await functions.aws.send_message(target, body.decode())
    elif ":sns:" in target:
        await functions.aws.publish(target, body.decode())
    elif ":lambda:" in target:
        await functions.invoke(target, body, invocation_type="Event")
    elif ":events:" in target:
        succeeded = record.get("requestContext", {}).get("condition") == "Success"
        kind = f"Lambda Function Invocation Result - {'Success' if succeeded else 'Failure'}"
        await functions.aws.put_event(target, "lambda", kind, [target, function_arn], record)
    elif target.startswith("arn:aws:s3:::"):
        bucket = target.removeprefix("arn:aws:s3:::")
        moment = datetime.now(UTC)
        key = f"aws/lambda/async/{function_arn.split(':')[6]}/{moment:%Y/%m/%d}/{moment:%Y-%m-%dT%H.%M.%S}-{new_uuid()}"
        await functions.aws.put_object(bucket, key, body)
    else:
        raise NotEmulated(f"the destination {target}")
