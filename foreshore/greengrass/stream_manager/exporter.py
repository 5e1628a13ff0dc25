"""Sends what waits in the streams: several exports at once, each one batch at a time and in order. Shell."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from foreshore.errors import UserError
from foreshore.greengrass.aws_calls import AwsCalls
from foreshore.greengrass.stream_manager.definitions import Export
from foreshore.greengrass.stream_manager.destinations import Destinations
from foreshore.greengrass.stream_manager.frames import Failure
from foreshore.greengrass.stream_manager.outcomes import Outcome, TryAgain
from foreshore.greengrass.stream_manager.schedule import Pacer, Turn, Waiting, choose
from foreshore.greengrass.stream_manager.settings import DEFAULT_THREADS
from foreshore.greengrass.stream_manager.streams import Message, Stream, Streams

EXPIRE_EVERY_S = 30.0
FAULT_PAUSE_S = 5.0
STOP_S = 1.0
MAX_BATCH_BYTES = 4 * 1024 * 1024
Say = Callable[[str, str], None]
Append = Callable[[str, bytes], int]


class Exporter:
    """`append(stream, payload)` is how status messages get into their streams."""

    def __init__(self, streams: Streams, aws: AwsCalls, append: Append, say: Say) -> None:
        self.threads = DEFAULT_THREADS
        self.pacer = Pacer()
        self._streams = streams
        self._append = append
        self._say = say
        self._destinations = Destinations(aws, self._pace, self._tell)
        self._turns: dict[tuple[str, str], Turn] = {}
        self._sending: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._is_stopping = False
        streams.on_drop = self._on_drop

    def start(self) -> None:
        """Begin to send."""
        self.refresh()
        self._worker = asyncio.ensure_future(self._work())

    async def stop(self) -> None:
        """Let what is being sent end, then give it up: it is sent again at the next start."""
        self._is_stopping = True
        self.poke()
        await asyncio.wait({self._worker})
        if self._sending:
            await asyncio.wait(self._sending, timeout=STOP_S)
        for task in self._sending:
            task.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)
        await self._destinations.close()

    def configure(self, threads: int, kilobits_a_second: float, min_part: int) -> None:
        """Take the component's settings."""
        self.threads = threads
        self.pacer.kilobits_a_second = kilobits_a_second
        self._destinations.s3.min_part = min_part
        self.poke()

    def poke(self) -> None:
        """Look again what is due."""
        self._wake.set()

    def refresh(self) -> None:
        """Take up new exports, forget those that are gone."""
        wanted = {
            (name, export.identifier): export
            for name in self._streams.names()
            for export in self._streams.get(name).definition.exports
        }
        self._turns = {
            key: self._turns[key] if key in self._turns and self._turns[key].export == export else Turn(key[0], export)
            for key, export in wanted.items()
        }
        self.poke()

    # what goes next

    async def _work(self) -> None:
        while not self._is_stopping:
            try:
                pause_s = self._send_due()
            except UserError as error:
                self._say("ERROR", f"exports pause: {error}")
                pause_s = FAULT_PAUSE_S
            self._wake.clear()
            try:
                await asyncio.wait_for(self._wake.wait(), pause_s)
            except TimeoutError:
                continue

    def _send_due(self) -> float:
        """Set everything going that is due; give how many seconds to wait at most. Raises UserError (a full disk)."""
        for name in self._streams.names():
            self._streams.expire(self._streams.get(name), _now_ms())
        while len(self._sending) < self.threads:
            turn, look_again_ms = choose([(turn, self._waiting(turn)) for turn in self._turns.values()], _now_ms())
            if turn is None:
                pause_s = EXPIRE_EVERY_S if look_again_ms is None else max(0.001, (look_again_ms - _now_ms()) / 1000)
                return min(pause_s, EXPIRE_EVERY_S)
            turn.is_busy = True
            task = asyncio.ensure_future(self._send(turn))
            self._sending.add(task)
            task.add_done_callback(self._sent)
        return EXPIRE_EVERY_S

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._say("ERROR", f"an export stopped: {error!r}")
        self.poke()

    def _waiting(self, turn: Turn) -> Waiting:
        stream = self._streams.get(turn.stream)
        start = self._start_of(turn, stream)
        count = max(0, stream.next - start)
        if not count or turn.export.batch_interval_ms is None:
            return Waiting(count, 0)
        return Waiting(count, self._streams.read(turn.stream, start, 1)[0].ingest_ms)

    def _start_of(self, turn: Turn, stream: Stream) -> int:
        """The first message that the export has not done with."""
        last = self._streams.progress(turn.stream, turn.export.identifier).last
        return max(last + 1 or turn.export.start or 0, stream.oldest)

    # one batch

    async def _send(self, turn: Turn) -> None:
        """Send one batch and keep how far it came, unless the export is another one by then."""
        name, export = turn.stream, turn.export
        start = self._start_of(turn, self._streams.get(name))
        batch = self._streams.read(name, start, export.batch_size, MAX_BATCH_BYTES)
        try:
            outcome = await self._destinations.send(name, export, batch)
        except TryAgain as failure:
            if self._is_current(turn):
                self._note_failure(turn, str(failure))
        else:
            if self._is_current(turn):
                self._note_success(turn, batch, outcome)
        finally:
            turn.is_busy = False

    def _is_current(self, turn: Turn) -> bool:
        return self._turns.get((turn.stream, turn.export.identifier)) is turn

    def _note_failure(self, turn: Turn, text: str) -> None:
        turn.fail(_now_ms())
        progress = self._streams.progress(turn.stream, turn.export.identifier)
        progress.time_ms, progress.error = _now_ms(), text
        if turn.failures == 1:
            self._say("WARN", f"stream {turn.stream}, export {turn.export.identifier}: {text}; trying again")
        self._streams.note_progress(turn.stream, turn.export.identifier, progress)

    def _note_success(self, turn: Turn, batch: list[Message], outcome: Outcome) -> None:
        turn.succeed(_now_ms())
        done = batch[: outcome.done]
        progress = self._streams.progress(turn.stream, turn.export.identifier)
        progress.time_ms, progress.error = _now_ms(), outcome.error
        progress.last = done[-1].sequence
        progress.messages += len(done)
        progress.bytes += 0 if outcome.error else sum(len(message.payload) for message in done)
        if outcome.error:
            self._say("WARN", f"stream {turn.stream}, export {turn.export.identifier}: {outcome.error}")
        self._streams.note_progress(turn.stream, turn.export.identifier, progress)

    async def _pace(self, size: int) -> None:
        """Wait until `size` bytes may be sent."""
        wait_ms = self.pacer.reserve(size, time.monotonic() * 1000)
        if wait_ms:
            await asyncio.sleep(wait_ms / 1000)

    # status streams

    def _tell(self, export: Export, level: int, status: Mapping[str, Any]) -> None:
        """Append a status message to the export's status stream."""
        if not export.status_stream or level > export.status_level:
            return
        try:
            self._append(export.status_stream, json.dumps(status).encode())
        except Failure as failure:
            self._say("ERROR", f"status stream {export.status_stream}: {failure.message}")

    def cancel_tasks(self, name: str, gone: list[Export], why: str) -> None:
        """Tell of the S3 tasks that wait for exports which are about to be deleted."""
        stream = self._streams.get(name)
        for export in gone:
            if export.kind == "s3TaskExecutor" and export.status_stream not in ("", name):
                left = self._streams.read(name, self._start_of(Turn(name, export), stream), 2**31)
                self._cancel(name, export, left, why)

    def _on_drop(self, stream: Stream, segment: int) -> None:
        """Messages are about to be dropped: S3 tasks among them that wait are cancelled."""
        name = stream.definition.name
        for export in stream.definition.exports:
            if export.kind == "s3TaskExecutor" and export.status_stream not in ("", name):
                start = self._start_of(Turn(name, export), stream)
                left = [each for each in self._streams.segment(name, segment) if each.sequence >= start]
                # Later: this may be in the middle of a transaction that is rolled back.
                why = "the task expired before it was carried out"
                asyncio.get_running_loop().call_soon(self._cancel, name, export, left, why)

    def _cancel(self, name: str, export: Export, tasks: list[Message], why: str) -> None:
        for message in tasks:
            self._destinations.s3.cancel(name, export, message, why)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
