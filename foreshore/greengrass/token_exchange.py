"""The token exchange service: AWS credentials for components, over HTTP on the loopback.

    GET /2016-11-01/credentialprovider/   Authorization: <SVCUID>
    200 {"AccessKeyId", "SecretAccessKey", "Token", "Expiration"}

AWS SDKs find it through AWS_CONTAINER_CREDENTIALS_FULL_URI and AWS_CONTAINER_AUTHORIZATION_TOKEN.
Source: developer guide, "Token exchange service"; nucleus, tes/HttpServerImpl (400, 403, 404, 500 as here).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import orjson

from foreshore.errors import AwsError
from foreshore.http import Request, Response, Server, text_response

PATH = "/2016-11-01/credentialprovider/"
Credentials = Callable[[], Awaitable[Mapping[str, str]]]


class TokenExchange:
    """One core's token exchange. `component_of(token)` names the holder of an SVCUID, or None."""

    def __init__(self, credentials: Credentials, component_of: Callable[[str], str | None]) -> None:
        self._credentials = credentials
        self._component_of = component_of
        self._server = Server(self._handle)
        self.url = ""

    async def start(self) -> None:
        """Listen on a free port; `url` is what components are given."""
        port = await self._server.start("127.0.0.1", 0)
        self.url = f"http://localhost:{port}{PATH}"

    async def stop(self) -> None:
        """Stop listening."""
        await self._server.stop()

    async def _handle(self, request: Request) -> Response:
        if request.path.rstrip("/") != PATH.rstrip("/"):
            return text_response(404, "Not Found")
        if request.method != "GET":
            return text_response(405, "Method Not Allowed")
        token = request.header("Authorization")
        if not token:
            return text_response(400, "No authorization token found")
        if self._component_of(token) is None:
            return text_response(403, "Unauthorized")
        try:
            credentials = await self._credentials()
        except AwsError as error:
            return text_response(error.status if error.status >= 400 else 500, f"Failed to get credentials: {error}")
        return Response(200, [(b"Content-Type", b"application/json")], orjson.dumps(dict(credentials)))
