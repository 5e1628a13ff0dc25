"""Generated examples are the same on every run, and how fast a machine is decides nothing."""

import contextlib
import functools
import sqlite3

from hypothesis import HealthCheck, settings

settings.register_profile("steady", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")


class _LeftOpen(sqlite3.Connection):
    """From Python 3.13 on a connection that nobody closed is a warning; unit tests leave theirs to its destructor."""

    def __del__(self) -> None:
        with contextlib.suppress(sqlite3.ProgrammingError):  # Made by another thread, which has to close it.
            self.close()


sqlite3.connect = functools.partial(sqlite3.connect, factory=_LeftOpen)
