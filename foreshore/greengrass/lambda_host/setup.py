"""What an instance of an on-demand function is told first."""

from __future__ import annotations

from typing import NamedTuple


class Setup(NamedTuple):
    """`environment` is complete; `paths` go before sys.path."""

    handler: str
    arn: str
    encoding: str
    timeout_s: float
    environment: dict[str, str]
    paths: list[str]
    log_level: str
