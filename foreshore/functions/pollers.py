"""Reads queues and streams for functions: batches, windows, retries, bisection, checkpoints. Shell.

One poller a mapping. A queue's failed batch comes back when its visibility timeout ends. A stream's shard goes on only
when a batch succeeded, or was given up and sent to the on-failure destination: it is halved first when the mapping
bisects, which costs no retry. `time_scale` multiplies AWS's waits (retries, batching windows).
"""

from __future__ import annotations

import abc
import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import orjson

from foreshore.background import Background
from foreshore.errors import AwsError, ForeshoreError, NotEmulated
from foreshore.functions import batches
from foreshore.functions.async_invokes import deliver
from foreshore.functions.batches import Source
from foreshore.functions.invocations import new_uuid
from foreshore.functions.windows import Window
from foreshore.seams import InvokeResult

if TYPE_CHECKING:
    from foreshore.functions.service import Functions

Record = dict[str, Any]
LONG_POLL_S = 2
IDLE_WAIT_S = 0.2
SHARDS_EVERY_S = 10.0
RETRY_FIRST_S = 1.0
RETRY_MOST_S = 60.0
BROKEN_WAIT_S = 1.0
DEFAULT_CONCURRENCY = 5


class Poller(abc.ABC):
    """What both kinds share: the task, the function, and what the last batch came to."""

    def __init__(self, functions: Functions, source: Source, time_scale: float) -> None:
        self.functions = functions
        self.source = source
        self.time_scale = time_scale
        self.last_result = "No records processed"
        self._task = Background()

    def start(self) -> None:
        """Begin to poll."""
        self._task.start(self._guard)

    async def stop(self) -> None:
        """Stop; what is not checkpointed is read again."""
        await self._task.stop()

    async def _guard(self) -> None:
        """Poll for ever; a source that does not answer is asked again."""
        told = ""
        while True:
            try:
                await self.poll()
            except NotEmulated as error:
                self._warn(str(error))
                return
            except (ForeshoreError, OSError, TimeoutError) as error:
                if str(error) != told:
                    told = str(error)
                    self._warn(f"can't read: {error}")
                self.last_result = f"PROBLEM: {error}"
                await asyncio.sleep(BROKEN_WAIT_S)

    def _warn(self, text: str) -> None:
        self.functions.warn(self.source.function, f"event source {self.source.source_arn}: {text}")

    @abc.abstractmethod
    async def poll(self) -> None:
        """Read until cancelled."""

    async def call(
        self, records: Sequence[Record], envelope: dict[str, Any] | None = None
    ) -> tuple[InvokeResult | None, str]:
        """Invoke the function; the result, or None and a word when it could not run at all."""
        payload = orjson.dumps({"Records": list(records), **(envelope or {})})
        try:
            result = await self.functions.invoke(self.source.function, payload)
        except AwsError as error:
            self.last_result = f"PROBLEM: {error.code}"
            return None, error.code
        self.last_result = "OK" if result.function_error is None else "PROBLEM: Function call failed"
        return result, ""

    def failures(self, result: InvokeResult | None, ids: Sequence[str]) -> list[str] | None:
        """The ids that failed; None for all of them."""
        if result is None or result.function_error is not None:
            return None
        if not self.source.reports_failures:
            return []
        return batches.failed_ids(result.payload, ids)


class QueuePoller(Poller):
    """One queue."""

    async def poll(self) -> None:
        """Receive, gather to batches, run them side by side (a FIFO queue: one after another)."""
        source = self.source
        url = await self.functions.aws.queue_url(source.source_arn)
        concurrency = 1 if source.is_fifo else source.max_concurrency or DEFAULT_CONCURRENCY
        limit = asyncio.Semaphore(concurrency)
        running: set[asyncio.Task[None]] = set()
        try:
            while True:
                await limit.acquire()
                try:
                    batch = await self._gather(url)
                except BaseException:
                    limit.release()
                    raise
                task = asyncio.ensure_future(self._run(url, batch))
                running.add(task)
                task.add_done_callback(running.discard)
                task.add_done_callback(lambda _: limit.release())
        finally:
            for task in running:
                task.cancel()

    async def _gather(self, url: str) -> list[Record]:
        """Wait for a first message, then until the batch is full or its window over."""
        batch: list[Record] = []
        size = 0
        ends: float | None = None
        while True:
            left = None if ends is None else ends - time.monotonic()
            wait = LONG_POLL_S if left is None else max(min(int(left), LONG_POLL_S), 0)
            messages = await self._receive(url, min(10, self.source.batch_size - len(batch)), wait)
            for message in messages:
                record = batches.sqs_record(message, self.source.source_arn)
                size += batches.size_of(record)
                batch.append(record)
            if batch and ends is None:
                ends = time.monotonic() + self.source.window_s * self.time_scale
            is_full = len(batch) >= self.source.batch_size or size >= batches.MAX_BATCH_BYTES
            if batch and (is_full or ends is None or time.monotonic() >= ends):
                return batch
            if not messages and ends is not None:
                await asyncio.sleep(max(min(ends - time.monotonic(), IDLE_WAIT_S), 0))

    async def _receive(self, url: str, count: int, wait: int) -> list[dict[str, Any]]:
        request = {
            "QueueUrl": url,
            "MaxNumberOfMessages": max(count, 1),
            "WaitTimeSeconds": wait,
            "AttributeNames": ["All"],
            "MessageAttributeNames": ["All"],
        }
        answer = await self.functions.aws.call("sqs", "ReceiveMessage", request, timeout=wait + 30.0)
        return list(answer.get("Messages") or ())

    async def _run(self, url: str, batch: list[Record]) -> None:
        wanted = [record for record in batch if batches.passes(self.source, record)]
        done = [record for record in batch if not any(record is each for each in wanted)]
        try:
            if wanted:
                result, _ = await self.call(wanted)
                failed = self.failures(result, [record["messageId"] for record in wanted])
                if failed is not None:
                    done += [record for record in wanted if record["messageId"] not in failed]
            await self._delete(url, done)
        except (ForeshoreError, OSError, TimeoutError) as error:
            self._warn(f"batch of {len(batch)}: {error}")

    async def _delete(self, url: str, records: Sequence[Record]) -> None:
        for start in range(0, len(records), 10):
            entries = [
                {"Id": str(index), "ReceiptHandle": record["receiptHandle"]}
                for index, record in enumerate(records[start : start + 10])
            ]
            await self.functions.aws.call("sqs", "DeleteMessageBatch", {"QueueUrl": url, "Entries": entries})


class StreamPoller(Poller):
    """One Kinesis stream or DynamoDB stream: a task a shard."""

    def __init__(self, functions: Functions, source: Source, time_scale: float) -> None:
        super().__init__(functions, source, time_scale)
        self._service = "kinesis" if source.kind == "kinesis" else "dynamodbstreams"
        self._shards: dict[str, asyncio.Task[None]] = {}
        self._windows: dict[str, Window] = {}

    async def poll(self) -> None:
        """Find the shards, new ones too, and read each."""
        try:
            first = True
            while True:
                for shard in await self._find_shards():
                    if shard not in self._shards:
                        # What a shard held before it was found belongs to us too, unless the mapping begins now.
                        position = self.source.position if first else "TRIM_HORIZON"
                        self._shards[shard] = asyncio.ensure_future(self._read_shard(shard, position))
                for task in self._shards.values():
                    if task.done() and not task.cancelled() and task.exception() is not None:
                        raise task.exception() or RuntimeError()
                first = False
                await asyncio.sleep(SHARDS_EVERY_S if self._shards else IDLE_WAIT_S)
        finally:
            for task in self._shards.values():
                task.cancel()
            await asyncio.gather(*self._shards.values(), return_exceptions=True)
            self._shards.clear()

    async def _find_shards(self) -> list[str]:
        aws, arn = self.functions.aws, self.source.source_arn
        if self._service == "kinesis":
            answer = await aws.call("kinesis", "ListShards", {"StreamName": arn.rpartition("/")[2]})
            return [shard["ShardId"] for shard in answer.get("Shards") or ()]
        answer = await aws.call("dynamodbstreams", "DescribeStream", {"StreamArn": arn})
        return [shard["ShardId"] for shard in answer["StreamDescription"].get("Shards") or ()]

    async def _iterator(self, shard: str, position: str) -> str:
        request: dict[str, Any] = {"ShardId": shard}
        if self._service == "kinesis":
            request["StreamName"] = self.source.source_arn.rpartition("/")[2]
        else:
            request["StreamArn"] = self.source.source_arn
        kept = self.functions.store.checkpoint(self.source.uuid, shard)
        if kept:
            after = {**request, "ShardIteratorType": "AFTER_SEQUENCE_NUMBER"}
            key = "StartingSequenceNumber" if self._service == "kinesis" else "SequenceNumber"
            try:
                answer = await self.functions.aws.call(self._service, "GetShardIterator", {**after, key: kept})
                return str(answer["ShardIterator"])
            except AwsError as error:
                # The stream was made anew: its numbers are others.
                self._warn(f"the checkpoint of {shard} is not in the stream ({error.code}): starting at {position}")
        request["ShardIteratorType"] = position
        if position == "AT_TIMESTAMP":
            request["Timestamp"] = self.source.position_time
        return str((await self.functions.aws.call(self._service, "GetShardIterator", request))["ShardIterator"])

    async def _read_shard(self, shard: str, position: str) -> None:
        iterator: str | None = await self._iterator(shard, position)
        held: list[Record] = []
        ends = 0.0
        while iterator is not None:
            answer = await self._get_records(iterator)
            iterator = answer.get("NextShardIterator")
            new = [self._shape(record, shard) for record in answer.get("Records") or ()]
            if new and not held:
                ends = time.monotonic() + self.source.window_s * self.time_scale
            held += new
            while len(held) >= self.source.batch_size:
                batch, held = held[: self.source.batch_size], held[self.source.batch_size :]
                await self._process(shard, batch)
            if held and (time.monotonic() >= ends or iterator is None):
                batch, held = held, []
                await self._process(shard, batch)
            window = self._windows.get(shard)
            if window is not None and not new and not held and window.is_over(time.time()):
                await self._close_window(shard, window)
            if not new:
                await asyncio.sleep(min(IDLE_WAIT_S, max(ends - time.monotonic(), 0.01)) if held else IDLE_WAIT_S)

    async def _get_records(self, iterator: str) -> dict[str, Any]:
        limit = 1000 if self._service == "dynamodbstreams" else 10_000
        answer = await self.functions.aws.call(self._service, "GetRecords", {"ShardIterator": iterator, "Limit": limit})
        assert isinstance(answer, dict)
        return answer

    def _shape(self, record: Record, shard: str) -> Record:
        if self._service == "kinesis":
            name = self.functions.registry.name_of(self.source.function)
            role = self.functions.registry.get(name).latest.spec.role
            return batches.kinesis_record(record, shard, self.source.source_arn, role)
        return batches.dynamodb_record(record, self.source.source_arn)

    async def _process(self, shard: str, batch: list[Record]) -> None:
        """A batch to its end, in parallel lanes; then its last record is the checkpoint."""
        wanted = [record for record in batch if batches.passes(self.source, record)]
        if self.source.tumbling_s:
            await self._process_windowed(shard, wanted)
            return
        lanes: dict[int, list[Record]] = {}
        for record in wanted:
            lanes.setdefault(batches.lane_of(record, self.source.parallelization), []).append(record)
        await asyncio.gather(*(self._finish(shard, lane, 0) for lane in lanes.values()))
        self.functions.store.set_checkpoint(self.source.uuid, shard, batches.sequence_of(batch[-1]))

    async def _process_windowed(self, shard: str, records: list[Record]) -> None:
        """Give each record to its window. A window is checkpointed as a whole: its state lives in memory only."""
        window = self._windows.setdefault(shard, Window(self.source.tumbling_s * self.time_scale))
        for start, run in window.split(records):
            if window.start is not None and start != window.start:
                await self._close_window(shard, window)
            window.start = start
            await self._finish(shard, run, 0)
            window.last = batches.sequence_of(run[-1])

    async def _close_window(self, shard: str, window: Window, *, is_early: bool = False) -> None:
        """The last call of a window has its state and no records."""
        retried = 0
        while True:
            envelope = window.envelope(shard, self.source.source_arn, is_final=True, is_early=is_early)
            result, _ = await self.call([], envelope)
            if result is not None and result.function_error is None:
                break
            retried += 1
            if 0 <= self.source.retries < retried:
                self._warn(f"the end of a window of {shard} was given up")
                break
            await self._back_off(retried)
        if window.last:
            self.functions.store.set_checkpoint(self.source.uuid, shard, window.last)
        window.close()

    async def _finish(self, shard: str, records: list[Record], retried: int) -> None:
        """Try a batch until it succeeds or is given up; halve it when the mapping bisects."""
        attempts = 0
        while records:
            records = await self._drop_aged(shard, records, attempts)
            if not records:
                return
            window = self._windows.get(shard)
            envelope = window.envelope(shard, self.source.source_arn, is_final=False) if window is not None else None
            result, problem = await self.call(records, envelope)
            attempts += 1
            ids = [batches.sequence_of(record) for record in records]
            failed = self.failures(result, ids)
            has_answer = window is not None and result is not None and result.function_error is None
            if has_answer and window is not None and result is not None and not window.take(result.payload):
                start = window.start
                await self._close_window(shard, window, is_early=True)
                window.start = start
            if failed == []:
                return
            if problem == "TooManyRequestsException":
                # A throttle is no attempt of the function's.
                await self._back_off(1)
                continue
            if failed:
                # All before the first that failed are done: the stream goes on from there.
                first = min(ids.index(each) for each in failed)
                records = records[first:]
            elif self.source.bisect and len(records) > 1:
                middle = len(records) // 2
                await self._finish(shard, records[:middle], retried)
                await self._finish(shard, records[middle:], retried)
                return
            retried += 1
            if 0 <= self.source.retries < retried:
                await self._give_up(shard, records, "RetryAttemptsExhausted", attempts, result)
                return
            await self._back_off(retried)

    async def _back_off(self, retried: int) -> None:
        await asyncio.sleep(min(RETRY_FIRST_S * 2 ** min(retried - 1, 10), RETRY_MOST_S) * self.time_scale)

    async def _drop_aged(self, shard: str, records: list[Record], attempts: int) -> list[Record]:
        if self.source.max_age_s < 0:
            return records
        oldest = time.time() - self.source.max_age_s * self.time_scale
        aged = [record for record in records if batches.arrival_of(record) < oldest]
        if not aged:
            return records
        await self._give_up(shard, aged, "RecordAgeExceeded", attempts, None)
        return [record for record in records if batches.arrival_of(record) >= oldest]

    async def _give_up(
        self, shard: str, records: list[Record], condition: str, attempts: int, result: InvokeResult | None
    ) -> None:
        self._warn(f"{len(records)} records of {shard} given up: {condition}")
        if not self.source.on_failure:
            return
        functions = self.functions
        name = functions.registry.name_of(self.source.function)
        arn = functions.registry.arn(name.name, name.qualifier)
        record = batches.stream_failure(
            source=self.source,
            shard=shard,
            records=records,
            request_id=result.request_id if result else new_uuid(),
            function_arn=arn,
            condition=condition,
            attempts=attempts,
            now=time.time(),
            function_error=result.function_error if result else None,
            executed_version=result.executed_version if result else "$LATEST",
        )
        try:
            await deliver(functions, self.source.on_failure, record, arn)
        except (ForeshoreError, OSError, TimeoutError) as error:
            self._warn(f"on-failure destination {self.source.on_failure} was not reached: {error}")


POLLERS: dict[str, Callable[[Any, Source, float], Poller]] = {
    "sqs": QueuePoller,
    "kinesis": StreamPoller,
    "dynamodb": StreamPoller,
}
