"""Secrets on the core's disk, encrypted with AES-256-GCM: a row a version of a secret, with its labels.

The key comes from the core's own private key, as on a device, where it is the device identity's; without one it is a
file of random bytes that only the core's user may read.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from foreshore.database import Database

_NONCE = 12
_SCHEMA = """
CREATE TABLE IF NOT EXISTS secret (
  arn TEXT NOT NULL, version TEXT NOT NULL, name TEXT NOT NULL, stages TEXT NOT NULL, value BLOB NOT NULL,
  PRIMARY KEY (arn, version)) WITHOUT ROWID;
"""


class SecretStore:
    """The secrets of one core. `key_material` is any secret bytes."""

    def __init__(self, path: Path, key_material: bytes | None) -> None:
        self._database = Database(path, _SCHEMA)
        path.chmod(0o600)
        material = key_material or _own_key(path.with_suffix(".key"))
        self._cipher = AESGCM(HKDF(SHA256(), 32, None, b"aws.greengrass.SecretManager").derive(material))

    def put(self, secret: Mapping[str, Any], kept: set[str]) -> None:
        """Keep a version as Secrets Manager answered it; its labels leave other versions, and those without any of the
        `kept` labels go."""
        arn, version = str(secret["ARN"]), str(secret["VersionId"])
        stages = {str(stage) for stage in secret.get("VersionStages") or ()}
        with self._database.transaction():
            rows = self._database.execute("SELECT version, stages FROM secret WHERE arn = ?", (arn,)).fetchall()
            for other, text in rows:
                left = set(json.loads(text)) - stages
                if other != version:
                    self._relabel(arn, other, left, kept)
            value = {key: secret[key] for key in ("SecretString", "SecretBinary") if secret.get(key) is not None}
            nonce = secrets.token_bytes(_NONCE)
            sealed = nonce + self._cipher.encrypt(nonce, json.dumps(value).encode(), arn.encode())
            row = (arn, version, str(secret.get("Name", "")), json.dumps(sorted(stages)), sealed)
            self._database.execute("INSERT OR REPLACE INTO secret VALUES (?, ?, ?, ?, ?)", row)

    def _relabel(self, arn: str, version: str, stages: set[str], kept: set[str]) -> None:
        if stages & kept:
            row = (json.dumps(sorted(stages)), arn, version)
            self._database.execute("UPDATE secret SET stages = ? WHERE arn = ? AND version = ?", row)
        else:
            self._database.execute("DELETE FROM secret WHERE arn = ? AND version = ?", (arn, version))

    def arns(self) -> dict[str, str]:
        """{ARN: name} of every secret."""
        return dict(self._database.execute("SELECT DISTINCT arn, name FROM secret").fetchall())

    def get(self, arn: str, version: str | None, stage: str) -> dict[str, Any] | None:
        """A version by its id or, without one, its label: as Secrets Manager answered it. None when it is not here."""
        sql = "SELECT version, name, stages, value FROM secret WHERE arn = ?"
        for found, name, text, sealed in self._database.execute(sql, (arn,)).fetchall():
            stages = json.loads(text)
            if found == version if version else stage in stages:
                try:
                    opened = self._cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], arn.encode())
                except InvalidTag:
                    return None
                value = json.loads(opened)
                return {"ARN": arn, "Name": name, "VersionId": found, "VersionStages": stages, **value}
        return None

    def forget(self, arn: str) -> None:
        """Remove a secret."""
        self._database.execute("DELETE FROM secret WHERE arn = ?", (arn,))

    def close(self) -> None:
        """Close the file."""
        self._database.close()


def _own_key(path: Path) -> bytes:
    """Random bytes that are made once and that nobody else may read."""
    if not path.exists():
        path.touch(mode=0o600)
        path.write_bytes(secrets.token_bytes(32))
    return path.read_bytes()
