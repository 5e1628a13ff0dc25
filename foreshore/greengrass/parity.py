"""What the Greengrass room emulates, and what it does not: the tables of its parts, one after the other."""

from __future__ import annotations

from foreshore.greengrass.component_parity import ROWS as COMPONENT_ROWS
from foreshore.greengrass.field_parity import ROWS as FIELD_ROWS
from foreshore.greengrass.host_parity import ROWS as HOST_ROWS
from foreshore.greengrass.ipc.parity import ROWS as IPC_ROWS

ROWS: list[tuple[str, str, str]] = [*COMPONENT_ROWS, *IPC_ROWS, *FIELD_ROWS, *HOST_ROWS]
