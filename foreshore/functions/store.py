"""What survives a kill -9: functions made through the API, their code, event source mappings, accepted events. Shell.

`<state>/lambda.db` (SQLite) and `<state>/lambda/<function>/<digest>/` (unpacked code).
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from foreshore.database import Database
from foreshore.errors import AwsError
from foreshore.functions.registry import Alias, Function, Version
from foreshore.functions.spec import FunctionSpec

MAX_ZIPPED = 50 * 1024 * 1024
MAX_UNZIPPED = 250 * 1024 * 1024
_SCHEMA = """
CREATE TABLE IF NOT EXISTS functions (name TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS mappings (uuid TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS checkpoints (
  mapping TEXT NOT NULL, shard TEXT NOT NULL, sequence TEXT NOT NULL, PRIMARY KEY (mapping, shard));
CREATE TABLE IF NOT EXISTS events (
  request_id TEXT PRIMARY KEY, function TEXT NOT NULL, qualifier TEXT NOT NULL, payload BLOB NOT NULL,
  client_context BLOB, trace TEXT, accepted REAL NOT NULL, attempts INTEGER NOT NULL, next REAL NOT NULL);
"""


class FunctionStore:
    """The room's files."""

    def __init__(self, state: Path) -> None:
        self.folder = state / "lambda"
        self.database = Database(state / "lambda.db", _SCHEMA)

    def close(self) -> None:
        """Close the database."""
        self.database.close()

    # Code

    def write_inline(self, name: str, source: str) -> Path:
        """Write a template's inline code as index.py (CloudFormation, Code.ZipFile). Gives the folder."""
        folder = self.folder / name / "inline"
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "index.py"
        if not file.is_file() or file.read_text("utf-8") != source:
            file.write_text(source, "utf-8")
        return folder

    def unpack(self, name: str, package: bytes) -> Path:
        """Unpack a deployment package into a folder of its own. Raises AwsError InvalidParameterValueException."""
        if len(package) > MAX_ZIPPED:
            raise AwsError(
                "RequestEntityTooLargeException", f"Zipped size must be smaller than {MAX_ZIPPED} bytes", 413
            )
        folder = self.folder / name / hashlib.sha256(package).hexdigest()[:24]
        if folder.is_dir():
            return folder
        partial = folder.with_suffix(".part")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            with zipfile.ZipFile(io.BytesIO(package)) as archive:
                if sum(member.file_size for member in archive.infolist()) > MAX_UNZIPPED:
                    raise _bad_package(f"Unzipped size must be smaller than {MAX_UNZIPPED} bytes")
                for member in archive.infolist():
                    _extract(archive, member, partial)
        except (zipfile.BadZipFile, EOFError, OSError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise _bad_package(
                "Could not unzip uploaded file. Please check your file, then try to upload again."
            ) from error
        partial.rename(folder)
        return folder

    def remove_code(self, name: str) -> None:
        """Forget all code of a function."""
        shutil.rmtree(self.folder / name, ignore_errors=True)

    # Functions

    def save_function(self, function: Function) -> None:
        """Keep a function that the API made; a template's is made anew at each start."""
        if not function.is_from_template:
            body = json.dumps(_function_body(function))
            self.database.execute("INSERT OR REPLACE INTO functions VALUES (?, ?)", (function.name, body))

    def delete_function(self, name: str) -> None:
        """Forget a function and its code."""
        self.database.execute("DELETE FROM functions WHERE name = ?", (name,))
        self.remove_code(name)

    def load_functions(self) -> Iterator[Function]:
        """Every function that was kept."""
        for (body,) in self.database.execute("SELECT body FROM functions ORDER BY name").fetchall():
            yield _read_function(json.loads(body))

    # Mappings and layers

    def save_mapping(self, uuid: str, body: dict[str, Any]) -> None:
        """Keep an event source mapping."""
        self.database.execute("INSERT OR REPLACE INTO mappings VALUES (?, ?)", (uuid, json.dumps(body)))

    def delete_mapping(self, uuid: str) -> None:
        """Forget one."""
        self.database.execute("DELETE FROM mappings WHERE uuid = ?", (uuid,))
        self.database.execute("DELETE FROM checkpoints WHERE mapping = ?", (uuid,))

    def checkpoint(self, mapping: str, shard: str) -> str:
        """The last sequence number that a mapping is done with, or ""."""
        sql = "SELECT sequence FROM checkpoints WHERE mapping = ? AND shard = ?"
        row = self.database.execute(sql, (mapping, shard)).fetchone()
        return str(row[0]) if row else ""

    def set_checkpoint(self, mapping: str, shard: str, sequence: str) -> None:
        """Note how far a mapping is."""
        self.database.execute("INSERT OR REPLACE INTO checkpoints VALUES (?, ?, ?)", (mapping, shard, sequence))

    def load_mappings(self) -> list[dict[str, Any]]:
        """All that were kept."""
        rows = self.database.execute("SELECT body FROM mappings ORDER BY uuid").fetchall()
        return [json.loads(body) for (body,) in rows]


def _bad_package(message: str) -> AwsError:
    return AwsError("InvalidParameterValueException", message, 400, {"Type": "User"})


def _extract(archive: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path) -> None:
    """One member, with its permission bits; a path that would leave the folder is refused."""
    target = (folder / member.filename).resolve()
    if not target.is_relative_to(folder.resolve()):
        raise _bad_package(f"The package holds a path outside it: {member.filename}")
    archive.extract(member, folder)
    mode = member.external_attr >> 16
    if stat.S_ISREG(mode) and mode & 0o111:
        target.chmod(target.stat().st_mode | 0o755)


# Functions as JSON


def _function_body(function: Function) -> dict[str, Any]:
    body = asdict(function)
    for version in (body["latest"], *body["versions"].values()):
        spec = version["spec"]
        spec["code"], spec["layers"], spec["package"] = str(spec["code"]), [str(path) for path in spec["layers"]], None
    return body


def _read_version(body: dict[str, Any]) -> Version:
    spec = dict(body["spec"])
    spec["code"], spec["layers"] = Path(spec["code"]), tuple(Path(path) for path in spec["layers"])
    known = {field.name for field in fields(FunctionSpec)}
    return Version(**{**body, "spec": FunctionSpec(**{key: value for key, value in spec.items() if key in known})})


def _read_function(body: dict[str, Any]) -> Function:
    return Function(
        **{
            **body,
            "latest": _read_version(body["latest"]),
            "versions": {number: _read_version(version) for number, version in body["versions"].items()},
            "aliases": {name: Alias(**alias) for name, alias in body["aliases"].items()},
        }
    )
