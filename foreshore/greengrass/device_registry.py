"""What a core remembers of client devices, to let them in while IoT Core is away. No I/O but SQLite's.

While the core is online IoT Core is asked each time and the answer kept; offline, an answer is good for
`security.clientDeviceTrustDurationMinutes` (1 by default). Once a day the answers about associated devices are asked
again. Source: Greengrass developer guide, "Client device auth"; aws-greengrass-client-device-auth 2.5
(BackgroundCertificateRefresh).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from foreshore.database import Database

_SCHEMA = """
CREATE TABLE IF NOT EXISTS verified (
    certificate TEXT NOT NULL, thing TEXT NOT NULL, at REAL NOT NULL, PRIMARY KEY (certificate, thing)
) STRICT, WITHOUT ROWID;
"""
REFRESH_S = 86_400.0
_CERTIFICATE = ""  # The `thing` of a row that is about the certificate alone.


class IotIdentities(Protocol):
    """What IoT Core knows. `is_online` says whether it can be asked."""

    def is_online(self) -> bool: ...

    def is_active(self, certificate_id: str, /) -> bool: ...

    def is_attached(self, thing: str, certificate_id: str, /) -> bool: ...


class DeviceRegistry:
    """Verified certificates and attachments. `clock` is in seconds; `trust_s` how long an answer is good offline."""

    def __init__(self, path: Path, cloud: IotIdentities, clock: Callable[[], float]) -> None:
        self.trust_s = 60.0
        self._cloud = cloud
        self._clock = clock
        self._refreshed = clock()
        self._database = Database(path, _SCHEMA)

    def is_active(self, certificate_id: str) -> bool:
        """Whether the certificate is registered and active, as far as is known."""
        return self._verified(certificate_id, _CERTIFICATE, lambda: self._cloud.is_active(certificate_id))

    def is_attached(self, thing: str, certificate_id: str) -> bool:
        """Whether the certificate is that thing's, as far as is known."""
        return self._verified(certificate_id, thing, lambda: self._cloud.is_attached(thing, certificate_id))

    def _verified(self, certificate_id: str, thing: str, ask: Callable[[], bool]) -> bool:
        now = self._clock()
        if not self._cloud.is_online():
            row = self._database.execute(
                "SELECT at FROM verified WHERE certificate = ? AND thing = ?", (certificate_id, thing)
            ).fetchone()
            return row is not None and bool(now < row[0] + self.trust_s)
        if ask():
            self._database.execute("INSERT OR REPLACE INTO verified VALUES (?, ?, ?)", (certificate_id, thing, now))
            return True
        self._forget(certificate_id, thing)
        return False

    def refresh(self, associated: set[str]) -> None:
        """Once a day while the core is online: ask again about the things associated with the core, forget the rest."""
        now = self._clock()
        if now < self._refreshed + REFRESH_S or not self._cloud.is_online():
            return
        self._refreshed = now
        rows = self._database.execute("SELECT certificate, thing FROM verified WHERE thing != ''").fetchall()
        kept = {
            certificate for certificate, thing in rows if thing in associated and self.is_attached(thing, certificate)
        }
        for certificate, thing in rows:
            if thing not in associated:
                self._forget(certificate, thing)
        for (certificate,) in self._database.execute("SELECT certificate FROM verified WHERE thing = ''").fetchall():
            if certificate in kept:
                self.is_active(certificate)
            else:
                self._forget(certificate, _CERTIFICATE)

    def _forget(self, certificate_id: str, thing: str) -> None:
        self._database.execute("DELETE FROM verified WHERE certificate = ? AND thing = ?", (certificate_id, thing))

    def close(self) -> None:
        """Close the file."""
        self._database.close()
