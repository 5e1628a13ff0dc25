"""Greengrass discovery: `GET /greengrass/discover/thing/<thing>` tells a client device where its core devices are.

Source: Greengrass developer guide, "Greengrass discovery RESTful API", "Troubleshooting client devices".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple
from urllib.parse import unquote

import orjson

from foreshore.errors import AwsError
from foreshore.http import Request, Response
from foreshore.iot.access import Identity, PolicyAccess
from foreshore.seams import Connectivity, CoreDirectory
from foreshore.shapes.service_model import new_request_id

PREFIX = "/greengrass/discover/thing/"
_JSON = (b"Content-Type", b"application/json")


class CoreEntry(NamedTuple):
    """One core that client devices may connect to: its thing's ARN, its addresses, the CA to trust (PEM)."""

    arn: str
    connectivity: list[Connectivity]
    ca: str


class Discovery:
    """Answers discovery requests. `cores()` gives the cores that run client device auth, by thing name."""

    def __init__(
        self, access: PolicyAccess, directory: CoreDirectory, cores: Callable[[], Mapping[str, CoreEntry]]
    ) -> None:
        self._access = access
        self._directory = directory
        self._cores = cores

    async def handle(self, request: Request, identity: Identity | None) -> Response:
        """Answer one request; `identity` is None for IAM callers, who may not discover. Raises AwsError."""
        thing = unquote(request.raw_path.removeprefix(PREFIX))
        if request.method != "GET" or not thing or "/" in thing:
            raise AwsError("ResourceNotFoundException", f"There is nothing at {request.raw_path}", 404)
        if identity is None or not self._access.allows(identity, "greengrass:Discover", f"thing/{thing}"):
            return _answer(403, {"message": None, "traceId": new_request_id()})
        running = self._cores()
        found = [_group(name, running[name]) for name in sorted(self._directory.cores_of(thing)) if name in running]
        if not found:
            return _answer(404, {"errorMessage": "The thing provided for discovery was not found"})
        return _answer(200, {"GGGroups": found})


def _answer(status: int, body: object) -> Response:
    return Response(status, [_JSON], orjson.dumps(body))


def _group(name: str, core: CoreEntry) -> dict[str, object]:
    connectivity = [
        {"Id": each.id, "HostAddress": each.host, "PortNumber": each.port, "Metadata": each.metadata}
        for each in core.connectivity
    ]
    return {
        "GGGroupId": f"greengrassV2-coreDevice-{name}",
        "Cores": [{"thingArn": core.arn, "Connectivity": connectivity}],
        "CAs": [core.ca],
    }
