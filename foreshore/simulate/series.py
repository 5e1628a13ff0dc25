"""Recorded series to readings. Pure: text in, readings out.

A reading is `{"device", "seq", "ts", "quantity", "value", "unit"}`: `seq` counts from 1 without gaps, `ts` is epoch
milliseconds as recorded (a time without zone is UTC).
"""

from __future__ import annotations

import ast
import csv
import io
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from foreshore.errors import UserError
from foreshore.simulate.scenario import Device


def readings(device: Device, text: str) -> Iterator[dict[str, Any]]:
    """The readings of one device. Raises UserError for a missing column or an unreadable cell."""
    rows = csv.DictReader(io.StringIO(text))
    for name in (device.source.time, device.source.value):
        if name not in (rows.fieldnames or ()):
            raise UserError(f"no column {name!r}", code="series", where=device.source.file)
    for seq, row in enumerate(rows, 1):
        if device.limit and seq > device.limit:
            return
        try:
            value = float(row[device.source.value])
            moment = datetime.fromisoformat(row[device.source.time])
        except ValueError as error:
            raise UserError(str(error), code="series", where=f"{device.source.file}:{seq + 1}") from error
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        yield {
            "device": device.name,
            "seq": seq,
            "ts": int(moment.timestamp() * 1000),
            "quantity": device.quantity,
            "value": value if math.isfinite(value) else None,
            "unit": device.unit,
        }


def change_points(source: str, name: str, agreement: int = 2, margin: int = 5) -> list[int]:
    """Row indexes that at least `agreement` annotators marked within `margin` rows of one another.

    `source` is Python text that has a keyword argument or assignment `name` with a literal {annotator: [index, …]}; it
    is read, never run. One index a cluster: its median.
    """
    marks = sorted((index, who) for who, indexes in _literal(source, name).items() for index in indexes)
    clusters: list[list[tuple[int, str]]] = []
    for mark in marks:
        if clusters and mark[0] - clusters[-1][-1][0] <= margin:
            clusters[-1].append(mark)
        else:
            clusters.append([mark])
    agreed = [cluster for cluster in clusters if len({who for _, who in cluster}) >= agreement]
    return [cluster[len(cluster) // 2][0] for cluster in agreed]


def _literal(source: str, name: str) -> dict[str, list[int]]:
    for node in ast.walk(ast.parse(source)):
        value = node.value if isinstance(node, ast.keyword) and node.arg == name else None
        if value is not None:
            result: dict[str, list[int]] = ast.literal_eval(value)
            return result
    raise UserError(f"no literal {name}", code="series")
