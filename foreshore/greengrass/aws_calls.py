"""Requests of a core's own services at the AWS endpoint: the credential scope names the service. Shell.

The endpoint asks for no signature; it routes by the scope, as AWS's own front doors do by host name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import orjson

from foreshore.errors import AwsError, NotEmulated, PeerError
from foreshore.http import Client, Response

TIMEOUT_S = 60.0
Headers = list[tuple[bytes, bytes]]
UNREACHABLE = "ServiceUnavailableException"


class AwsCalls:
    """`environment()` has AWS_ENDPOINT_URL and AWS_ACCESS_KEY_ID, as components see them."""

    def __init__(self, region: str, environment: Callable[[], Mapping[str, str]]) -> None:
        self._region = region
        self._environment = environment
        self._client = Client(limit=8)

    async def close(self) -> None:
        """Close the pooled connections."""
        await self._client.close()

    async def send(self, service: str, method: str, target: str, headers: Headers, body: bytes = b"") -> Response:
        """One exchange. Raises OSError, TimeoutError or PeerError; NotEmulated without an endpoint."""
        environment = self._environment()
        url = environment.get("AWS_ENDPOINT_URL", "")
        if not url:
            raise NotEmulated(f"{service} without an AWS endpoint", "Start one with `foreshore dev`.")
        parts = urlsplit(url)
        scope = f"{environment.get('AWS_ACCESS_KEY_ID', 'foreshore')}/20200101/{self._region}/{service}/aws4_request"
        authorization = f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature={'0' * 64}"
        pairs = [*headers, (b"Authorization", authorization.encode())]
        port = parts.port or 80
        return await self._client.fetch(method, parts.hostname or "", port, target, pairs, body, timeout=TIMEOUT_S)

    async def ask(
        self, service: str, action: str, request: Mapping[str, Any], *, version: str = "1.1"
    ) -> dict[str, Any]:
        """An operation of AWS's JSON protocol; `action` is its X-Amz-Target. Raises AwsError, also when unreachable."""
        headers = [
            (b"Content-Type", f"application/x-amz-json-{version}".encode()),
            (b"X-Amz-Target", action.encode()),
        ]
        try:
            response = await self.send(service, "POST", "/", headers, orjson.dumps(request))
        except (OSError, TimeoutError, PeerError) as error:
            raise AwsError(UNREACHABLE, str(error) or type(error).__name__, 503) from error
        if response.status >= 300:
            raise failure(response)
        body = response.body if isinstance(response.body, bytes) else b""
        try:
            found = orjson.loads(body) if body else {}
        except orjson.JSONDecodeError as error:
            raise AwsError(UNREACHABLE, f"{service} answered what is no JSON", 502) from error
        return found if isinstance(found, dict) else {}


def failure(response: Response) -> AwsError:
    """What an error answer of the JSON protocols says."""
    body = response.body if isinstance(response.body, bytes) else b""
    code = response.header("x-amzn-errortype").partition(":")[0]
    message = body[:300].decode("utf-8", "replace")
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        found = None
    if isinstance(found, dict):
        code = str(found.get("__type") or found.get("code") or code).rpartition("#")[2]
        message = str(found.get("message") or found.get("Message") or message)
    return AwsError(code or "InternalFailure", message, response.status)
