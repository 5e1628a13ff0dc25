"""A core in a process of its own, for tests that kill it: `python -m tests.greengrass.killed_core ROOT offline|online`.

Prints one line when it serves. Online, its link is up and prints each message it takes.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from foreshore.greengrass.service import Core
from foreshore.greengrass.supervisor import factory
from foreshore.seams import Publication

LOADER = "com.example.Loader"
POLICY = {"aws.greengrass.ipc.mqttproxy": {"p": {"operations": ["*"], "resources": ["cloud/#"]}}}


class Link:
    """A CloudLink that is down, or up and telling."""

    def __init__(self, connected: bool) -> None:
        self.connected = connected

    def on_state(self, callback: Callable[[bool], None]) -> None:
        """Its state never changes."""

    async def publish(self, publication: Publication) -> int:
        print(json.dumps({"published": publication.payload.decode()}), flush=True)
        return 0

    async def subscribe(self, filter: str, qos: int, callback: Callable[[Publication], None]) -> None:
        raise ConnectionError

    async def unsubscribe(self, filter: str) -> None:
        raise ConnectionError


async def main(root: Path, connected: bool) -> None:
    """Serve until killed."""
    core = Core(
        root=root,
        thing="killed",
        region="us-east-1",
        account="000000000000",
        cloud=Link(connected),
        span=lambda span: None,
        log=lambda line: None,
        components=factory(environment=lambda: {"PATH": os.environ["PATH"]}, run_folder=root / "run"),
    )
    await core.start()
    core.configuration.apply(LOADER, defaults={"accessControl": POLICY}, timestamp=1)
    print(json.dumps({"socket": str(core.ipc_socket), "token": core.tokens.issue(LOADER)}), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2] == "online"))
