"""The AWS endpoint: one listener in front of the services we own and the backend that has the rest. Shell.

`mount(service, handler)` gives a service to a room; `refuse(service, why)` answers NotEmulated for one that the backend
would answer without the effect AWS has. Everything else is forwarded byte for byte.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable

from foreshore.cloud.backend import Backend
from foreshore.cloud.routing import Target, route
from foreshore.cloud.unreached import SERVICES, unreached
from foreshore.errors import AwsError, NotEmulated
from foreshore.http import Request, Response, Server, text_response
from foreshore.seams import EmitLog, LogLine
from foreshore.shapes.errors import error_response

MAX_REGIONS = 50
RoomHandler = Callable[[Request], Response | Awaitable[Response]]
TargetHandler = Callable[[Request, Target], Response | Awaitable[Response]]


class Endpoint:
    """Routes requests to rooms, admin pages and the backend."""

    def __init__(self, backend: Backend | None, log: EmitLog, region: str = "") -> None:
        self.backend = backend
        self.region = region
        self._regions = {region, ""}
        self.log = log
        self.services: dict[str, RoomHandler] = {}
        self.targets: dict[str, TargetHandler] = {}
        self.admin: dict[str, TargetHandler] = {}
        self.refused: dict[str, str] = {}
        self.server = Server(self._handle, on_error=self._failed)
        self.port = 0

    def mount(self, service: str, handler: RoomHandler) -> None:
        """Give a SigV4 signing name to a room."""
        self.services[service] = handler

    def mount_target(self, service: str, handler: TargetHandler) -> None:
        """Give `execute-api` or `lambda-url` to a room."""
        self.targets[service] = handler

    def mount_admin(self, room: str, handler: TargetHandler) -> None:
        """Serve `/_foreshore/<room>/…`, for the command line and the console."""
        self.admin[room] = handler

    def refuse(self, service: str, why: str) -> None:
        """Answer NotEmulated for a service."""
        self.refused[service] = why

    async def start(self, host: str, port: int) -> int:
        """Listen; give the port. Raises OSError when it is taken."""
        self.port = await self.server.start(host, port)
        return self.port

    async def stop(self) -> None:
        """Close the listener and its connections."""
        await self.server.stop()

    def _handle(self, request: Request) -> Response | Awaitable[Response]:
        target = route(request)
        service = target.service
        room = self.services.get(service)
        if room is not None:
            if target.region not in self._regions:
                self._note_region(service, target.region)
            return room(request)
        if service == "admin":
            admin = self.admin.get(target.resource)
            if admin is None:
                return text_response(404, f"no such page: {request.raw_path}\n")
            return admin(request, target)
        by_target = self.targets.get(service)
        if by_target is not None:
            return by_target(request, target)
        if service in self.refused:
            raise NotEmulated(self.refused[service])
        if self.backend is None:
            raise NotEmulated(f"the service {service or 'of this request'} without a backend", "Start without --only.")
        if service in SERVICES:
            asked = unreached(service, request)
            if asked:
                raise NotEmulated(asked)
        return self.backend.forward(request)

    def _note_region(self, service: str, region: str) -> None:
        """Say once that a client expects another region: the ARNs it gets are of this one."""
        if len(self._regions) < MAX_REGIONS:
            self._regions.add(region)
            text = (
                f"a request to {service} is signed for {region}; this edge is {self.region}, and so are its ARNs "
                "(region in foreshore.toml)"
            )
            self.log(LogLine(time.time_ns(), "cloud", "endpoint", "WARN", "", text))

    def _failed(self, request: Request, error: Exception) -> Response:
        if isinstance(error, AwsError):
            return error_response(error, request)
        where = f"{request.method} {request.raw_path}"
        self.log(LogLine(time.time_ns(), "cloud", "endpoint", "ERROR", "", f"{where}: {type(error).__name__}: {error}"))
        request_id = secrets.token_hex(8)
        return error_response(
            AwsError("InternalFailure", f"{type(error).__name__} (request {request_id})", 500), request
        )
