"""aws.greengrass.LogManager: uploads log files to CloudWatch Logs, and keeps how far each file came. Shell.

A file is known by its inode and its first bytes, so one that is rotated under another name goes on where it was. A
position is kept after each batch that CloudWatch Logs took: nothing is lost by a kill, at most one batch comes twice.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foreshore.background import Background
from foreshore.database import Database
from foreshore.errors import AwsError, ForeshoreError
from foreshore.greengrass.aws_calls import AwsCalls
from foreshore.greengrass.log_events import Batch, Settings, Source, batches, read_settings

HEAD_BYTES = 256
CHUNK_BYTES = 4 * 1024 * 1024
_LOGS = "Logs_20140328."
_SCHEMA = """
CREATE TABLE IF NOT EXISTS position (
  component TEXT NOT NULL, file TEXT NOT NULL, head BLOB NOT NULL, position INTEGER NOT NULL,
  PRIMARY KEY (component, file)) WITHOUT ROWID;
"""


@dataclass(slots=True)
class LogFile:
    """One file; `position` is how much of it was uploaded, bytes."""

    path: Path
    key: str
    head: bytes
    size: int
    modified_ns: int
    position: int = 0

    @property
    def is_done(self) -> bool:
        """Whether all of it was uploaded."""
        return self.position >= self.size


class LogManager:
    """The uploads of one core. `logs` is its log folder, `work` the component's own."""

    def __init__(
        self, *, thing: str, region: str, logs: Path, work: Path, aws: AwsCalls, say: Callable[[str, str], None]
    ) -> None:
        self._thing = thing
        self._region = region
        self._logs = logs
        self._work = work
        self._aws = aws
        self._say = say
        self._settings = Settings()
        self._database: Database | None = None
        self._worker = Background()
        self._changed = asyncio.Event()
        self._complaint = ""

    async def configure(self, configuration: Mapping[str, Any] | None) -> None:
        """Take the component's configuration; without the component nothing is uploaded."""
        self._settings, findings = read_settings(configuration or {})
        for finding in findings:
            self._say("ERROR", finding)
        self._changed.set()

    async def start(self) -> None:
        """Begin to upload, as soon as there is something to upload."""
        self._worker.start(self._work_on)

    async def stop(self) -> None:
        """Stop; what is not uploaded goes on at the next start."""
        await self._worker.stop()
        if self._database is not None:
            self._database.close()
            self._database = None
        await self._aws.close()

    async def _work_on(self) -> None:
        while True:
            self._changed.clear()
            if self._settings.sources:
                await self.upload_all()
            try:
                await asyncio.wait_for(
                    self._changed.wait(), self._settings.interval_s if self._settings.sources else None
                )
            except TimeoutError:
                continue

    async def upload_all(self) -> None:
        """Upload what is new in every component's files; a trouble with one is said once and hinders no other."""
        for source in self._settings.sources:
            try:
                await self._upload(source)
                self._complaint = ""
            except (ForeshoreError, OSError) as error:
                text = error.message if isinstance(error, AwsError) else str(error)
                if text != self._complaint:
                    self._complaint = text
                    self._say("ERROR", f"the logs of {source.component} can't be uploaded: {text}; trying again")

    # one component

    async def _upload(self, source: Source) -> None:
        files = await asyncio.to_thread(self._files, source)
        positions = self._positions(source)
        for file in files:
            head, position = positions.get(file.key, (b"", 0))
            is_same = file.head.startswith(head) and position <= file.size
            file.position = position if is_same else 0
            await self._upload_file(source, file, is_rotated=file is not files[-1])
        self._forget(source, positions.keys() - {file.key for file in files})
        self._remove_files(source, files)

    def _files(self, source: Source) -> list[LogFile]:
        """The component's files, oldest first; the last one is still written to."""
        folder = Path(source.folder) if source.folder else self._logs
        found = []
        if not folder.is_dir():
            return []
        for path in folder.iterdir():
            if source.pattern.search(path.name) and path.is_file():
                status = path.stat()
                with path.open("rb") as stream:
                    head = stream.read(HEAD_BYTES)
                key = f"{status.st_dev}:{status.st_ino}"
                found.append(LogFile(path, key, head, status.st_size, status.st_mtime_ns))
        return sorted(found, key=lambda file: (file.modified_ns, file.path.name))

    async def _upload_file(self, source: Source, file: LogFile, *, is_rotated: bool) -> None:
        """All of a rotated file; of the one that is written to, all complete lines."""
        chunk = CHUNK_BYTES
        while not file.is_done:
            before = file.position
            is_last = before + chunk >= file.size
            await self._upload_chunk(source, file, chunk, is_end=is_rotated and is_last)
            if file.position == before:
                if is_last:
                    return
                # A line that is longer than the chunk.
                chunk *= 4

    async def _upload_chunk(self, source: Source, file: LogFile, chunk: int, *, is_end: bool) -> None:
        data = await asyncio.to_thread(_read, file.path, file.position, chunk)
        now_ms = time.time_ns() // 1_000_000
        for batch in batches(data, file.position, source, self._thing, now_ms, is_end=is_end):
            if batch.events:
                await self._put(source, batch)
            file.position = batch.end
            row = (source.component, file.key, file.head, file.position)
            self._open().execute("INSERT OR REPLACE INTO position VALUES (?, ?, ?, ?)", row)

    async def _put(self, source: Source, batch: Batch) -> None:
        """PutLogEvents, with group and stream made when they are not there. Raises AwsError."""
        group = {"logGroupName": source.group(self._region)}
        stream = {**group, "logStreamName": batch.stream}
        try:
            await self._put_events(stream, batch)
        except AwsError as error:
            if error.code != "ResourceNotFoundException":
                raise
            await self._make("CreateLogGroup", group)
            await self._make("CreateLogStream", stream)
            await self._put_events(stream, batch)

    async def _put_events(self, stream: Mapping[str, str], batch: Batch) -> None:
        try:
            answer = await self._aws.ask("logs", _LOGS + "PutLogEvents", {**stream, "logEvents": batch.request()})
        except AwsError as error:
            if error.code == "DataAlreadyAcceptedException":
                return
            raise
        rejected = answer.get("rejectedLogEventsInfo")
        if rejected:
            self._say("ERROR", f"CloudWatch Logs rejected events of {stream['logGroupName']}: {rejected}")

    async def _make(self, action: str, request: Mapping[str, str]) -> None:
        try:
            await self._aws.ask("logs", _LOGS + action, request)
        except AwsError as error:
            if error.code != "ResourceAlreadyExistsException":
                raise

    # positions and disk space

    def _open(self) -> Database:
        if self._database is None:
            self._database = Database(self._work / "positions.db", _SCHEMA)
        return self._database

    def _positions(self, source: Source) -> dict[str, tuple[bytes, int]]:
        sql = "SELECT file, head, position FROM position WHERE component = ?"
        rows = self._open().execute(sql, (source.component,))
        return {key: (head, position) for key, head, position in rows}

    def _forget(self, source: Source, keys: set[str]) -> None:
        rows = [(source.component, key) for key in keys]
        self._open().executemany("DELETE FROM position WHERE component = ? AND file = ?", rows)

    def _remove_files(self, source: Source, files: list[LogFile]) -> None:
        """Remove uploaded files that are no longer written to: all, or the oldest beyond the disk space limit."""
        total = sum(file.size for file in files)
        for file in files[:-1]:
            too_much = source.limit is not None and total > source.limit
            if file.is_done and (source.deletes or too_much):
                file.path.unlink(missing_ok=True)
                total -= file.size


def _read(path: Path, position: int, count: int) -> bytes:
    with path.open("rb") as stream:
        stream.seek(position)
        return stream.read(count)
