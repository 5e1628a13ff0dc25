"""Keeps deployments in SQLite: what each asks, where it stands, and what a rollback goes back to.

A queued deployment is on disk before its id is given out, so that one that the core's death interrupted is taken up
again at the next start. The nucleus keeps that much only of deployments that restart it (nucleus,
DeploymentDirectoryManager); Foreshore does so for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from foreshore.database import Database
from foreshore.greengrass.components import DeploymentStatus
from foreshore.greengrass.deployments import ConfigurationUpdate, DeploymentDocument

KEPT = 100
UNFINISHED = ("QUEUED", "IN_PROGRESS")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS deployments (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, target TEXT NOT NULL, document BLOB NOT NULL,
    status BLOB NOT NULL, state TEXT NOT NULL, progress BLOB NOT NULL
) STRICT;
"""


@dataclass(slots=True)
class Progress:
    """How far a deployment came. `attempts` counts the times it was begun; `configured_ms` is the timestamp of its
    configuration once that is applied, else 0; `touched` are the components whose configuration it changes, `trees`
    theirs from before, `groups` those from before; `rolling_back` is the failure's cause once the way back is begun."""

    attempts: int = 0
    configured_ms: int = 0
    touched: list[str] = field(default_factory=list)
    trees: dict[str, Any] = field(default_factory=dict)
    groups: dict[str, dict[str, str]] = field(default_factory=dict)
    rolling_back: str = ""


@dataclass(slots=True)
class Record:
    """One deployment as it is kept."""

    id: str
    group: str
    document: DeploymentDocument
    status: DeploymentStatus
    progress: Progress = field(default_factory=Progress)


class DeploymentJournal:
    """The durable side of a `Deployer`."""

    def __init__(self, path: Path) -> None:
        self._database = Database(path, _SCHEMA)

    def load(self) -> list[Record]:
        """Every deployment that is kept, oldest first."""
        rows = self._database.execute("SELECT id, target, document, status, progress FROM deployments ORDER BY number")
        return [
            Record(
                identifier,
                target,
                read_record(orjson.loads(document)),
                DeploymentStatus(**orjson.loads(status)),
                Progress(**orjson.loads(progress)),
            )
            for identifier, target, document, status, progress in rows
        ]

    def add(self, record: Record) -> None:
        """Keep a new one; on return it survives kill -9."""
        with self._database.transaction():
            self._database.execute(
                "INSERT INTO deployments (id, target, document, status, state, progress) VALUES (?, ?, ?, ?, ?, ?)",
                (
                    record.id,
                    record.group,
                    orjson.dumps(asdict(record.document)),
                    orjson.dumps(record.status),
                    record.status.status,
                    orjson.dumps(record.progress),
                ),
            )
            self._database.execute(
                "DELETE FROM deployments WHERE state NOT IN (?, ?) AND number <= "
                "(SELECT max(number) FROM deployments) - ?",
                (*UNFINISHED, KEPT),
            )

    def update(self, record: Record) -> None:
        """Keep its status and progress as they are now."""
        self._database.execute(
            "UPDATE deployments SET status = ?, state = ?, progress = ? WHERE id = ?",
            (orjson.dumps(record.status), record.status.status, orjson.dumps(record.progress), record.id),
        )

    def close(self) -> None:
        """Close the file."""
        self._database.close()


def read_record(value: Mapping[str, Any]) -> DeploymentDocument:
    """A deployment document from what `add` wrote of it."""
    updates = {
        name: ConfigurationUpdate(update["merge"], tuple(update["reset"])) for name, update in value["updates"].items()
    }
    memberships = value.get("memberships")
    return DeploymentDocument(
        **{
            **value,
            "updates": updates,
            "remove": tuple(value["remove"]),
            "memberships": None if memberships is None else tuple(memberships),
        }
    )
