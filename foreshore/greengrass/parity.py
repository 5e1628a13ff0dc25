"""What the Greengrass room emulates, and what it does not: the tables of its parts, one after the other."""

from __future__ import annotations

from foreshore.greengrass.ipc.parity import ROWS as IPC_ROWS

ROWS: list[tuple[str, str, str]] = [*IPC_ROWS]
