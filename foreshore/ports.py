"""Which port each listener takes, and who holds one that is taken."""

from __future__ import annotations

from pathlib import Path

from foreshore.errors import UserError

DEFAULTS = {
    "aws": 4566,
    "mqtt": 1883,
    "mqtts": 8883,
    "https": 8443,
    "console": 4500,
    "core_mqtts": 8884,
    "stream_manager": 8088,
    "distribution": 8080,
    "advisor": 8885,
}
_LISTEN = "0A"


class Ports:
    """Hands out ports: AWS tools' defaults, or `base` and up, or free ones when `base` is 0."""

    def __init__(self, base: int | None = None) -> None:
        self.base = base
        self._next = base or 0
        self._used: dict[str, int] = {}

    def take(self, name: str) -> int:
        """The port for a listener; a second one of the same kind gets the next number."""
        if self.base == 0:
            return 0
        if self.base is not None:
            self._next += 1
            return self._next - 1
        count = self._used.get(name, 0)
        self._used[name] = count + 1
        return DEFAULTS[name] + count


def taken(port: int, what: str, error: OSError) -> UserError:
    """The error for a port that could not be bound, naming the process that holds it."""
    holder = holder_of(port)
    return UserError(
        f"port {port} for {what} can't be had: {error.strerror or error}" + (f"; {holder} holds it" if holder else ""),
        code="port-taken",
        where=f"127.0.0.1:{port}",
        mend="stop that process, or move every port with --port-base N (0: free ones)",
    )


def holder_of(port: int) -> str:
    """`pid 123 (name)` of the process listening on a port, or an empty text where /proc can't tell."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
    if not inodes:
        return ""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            for descriptor in (process / "fd").iterdir():
                if str(descriptor.readlink()) in inodes:
                    return f"pid {process.name} ({(process / 'comm').read_text().strip()})"
        except OSError:
            continue
    return ""
