"""Where job executions are kept: written through to the database, found by job, by thing and by number. Pure.

Knows no rule of jobs but the order of execution numbers.
"""

from __future__ import annotations

from collections.abc import Iterable

from foreshore.errors import AwsError
from foreshore.iot.job_executions import in_order, is_pending
from foreshore.iot.store import Document, Kind


class Executions:
    """All executions. A document is not to be changed without `save`."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._by_job: dict[str, dict[tuple[str, int], Document]] = {}
        self._by_thing: dict[str, dict[tuple[str, int], Document]] = {}
        self._pending: dict[str, set[tuple[str, int]]] = {}
        for execution in kind.values():
            self._remember(execution)

    def _remember(self, execution: Document) -> None:
        job, thing, number = execution["jobId"], execution["thing"], int(execution["executionNumber"])
        self._by_job.setdefault(job, {})[thing, number] = execution
        self._by_thing.setdefault(thing, {})[job, number] = execution
        pending = self._pending.setdefault(job, set())
        (pending.add if is_pending(execution) else pending.discard)((thing, number))

    def save(self, execution: Document) -> None:
        """Keep an execution, new or changed."""
        self._kind.put(f"{execution['thing']}/{execution['jobId']}/{execution['executionNumber']}", execution)
        self._remember(execution)

    def remove(self, execution: Document) -> None:
        """Forget an execution."""
        job, thing, number = execution["jobId"], execution["thing"], int(execution["executionNumber"])
        self._kind.delete(f"{thing}/{job}/{number}")
        for index, key, inner in ((self._by_job, job, thing), (self._by_thing, thing, job)):
            found = index.get(key, {})
            found.pop((inner, number), None)
            if not found:
                index.pop(key, None)
        self._pending.get(job, set()).discard((thing, number))

    def has_pending(self, job: str) -> bool:
        """Whether a device has an execution of a job before itself."""
        return bool(self._pending.get(job))

    def everything(self) -> list[Document]:
        """Every execution."""
        return [execution for found in self._by_job.values() for execution in found.values()]

    def of_job(self, job: str) -> list[Document]:
        """Every execution of a job."""
        return list(self._by_job.get(job, {}).values())

    def of_thing(self, thing: str) -> list[Document]:
        """Every execution of a thing."""
        return list(self._by_thing.get(thing, {}).values())

    def newest(self, job: str) -> Iterable[Document]:
        """Each thing's last execution of a job."""
        found: dict[str, Document] = {}
        for execution in self.of_job(job):
            known = found.get(execution["thing"])
            if known is None or execution["executionNumber"] > known["executionNumber"]:
                found[execution["thing"]] = execution
        return found.values()

    def latest(self, job: str, thing: str, number: int | None = None) -> Document:
        """A thing's last execution of a job, or the one of a number. Raises AwsError ResourceNotFoundException."""
        found = [
            each for (name, at), each in self._by_thing.get(thing, {}).items() if name == job and number in (None, at)
        ]
        if not found:
            text = f"Job Execution doesn't exist for thing {thing} and job {job}."
            raise AwsError("ResourceNotFoundException", text, 404)
        return max(found, key=lambda each: int(each["executionNumber"]))

    def pending(self, thing: str) -> list[Document]:
        """What a device has before itself, in the order it gets it."""
        return sorted(
            (each for each in self.of_thing(thing) if is_pending(each) and "namespaceId" not in each), key=in_order
        )
