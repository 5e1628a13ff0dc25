"""Ask origins: addresses, connections, attempts and timeouts. Shell.

Sources: CloudFront Developer Guide, "Request and response behavior for custom origins", "Troubleshooting error
responses" (502 and 504), "Controlling origin timeouts and attempts".
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass

from foreshore.cloudfront import forwarding, pages
from foreshore.cloudfront.behaviors import Origin
from foreshore.errors import PeerError
from foreshore.http import Client, Headers, Response


@dataclass(frozen=True, slots=True)
class OriginAddress:
    """Where an origin's domain is on this machine. `port` 0: the origin's own port and protocol, with `host` as it is.

    `host_header` replaces a Host that names the origin's domain; `path_prefix` goes before the path (`/<bucket>`).
    """

    host: str
    port: int
    tls: bool
    host_header: str
    path_prefix: str = ""


ResolveOrigin = Callable[[str], OriginAddress]


class OriginFailure(Exception):
    """No answer from the origin: the status and text that stand for it."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class Origins:
    """A pool of connections to origins."""

    def __init__(self, resolve: ResolveOrigin) -> None:
        self._resolve = resolve
        self._client = Client()
        self._tls: ssl.SSLContext | None = None

    async def close(self) -> None:
        """Close every connection."""
        await self._client.close()

    async def fetch(
        self, origin: Origin, scheme: str, method: str, target: str, headers: Headers, body: bytes
    ) -> Response:
        """One exchange with the origin, `scheme` http or https. Raises OriginFailure."""
        address = self._resolve(origin.domain)
        port, tls = address.port, address.tls
        if port == 0:
            tls = scheme == "https"
            port = origin.https_port if tls else origin.http_port
        host = next((value.decode("latin-1") for name, value in headers if name.lower() == b"host"), origin.domain)
        if host != origin.domain and _is_strict(origin.domain):
            return _forbidden()
        sent = address.host_header if host == origin.domain else host
        pairs = [(b"Host", sent.encode("latin-1"))]
        pairs += [pair for pair in headers if pair[0].lower() not in (b"host", b"content-length")]
        pairs = forwarding.with_custom_headers(pairs, origin.custom_headers)
        return await self._attempt(origin, address, port, tls, method, target, pairs, body)

    async def _attempt(
        self,
        origin: Origin,
        address: OriginAddress,
        port: int,
        tls: bool,
        method: str,
        target: str,
        headers: Headers,
        body: bytes,
    ) -> Response:
        failure: Exception | None = None
        for _ in range(max(1, origin.attempts)):
            try:
                return await self._client.fetch(
                    method, address.host, port, address.path_prefix + target, headers, body,
                    ssl=self._context() if tls else None, connect_timeout=origin.connect_timeout,
                    timeout=origin.read_timeout,
                )  # fmt: skip
            except ConnectionResetError as error:
                raise OriginFailure(502, pages.ORIGIN_CLOSED) from error
            except TimeoutError as error:
                raise OriginFailure(504, pages.ORIGIN_TIMEOUT) from error
            except PeerError as error:
                raise OriginFailure(502, pages.ORIGIN_UNREACHABLE) from error
            except OSError as error:
                failure = error
        raise OriginFailure(502, pages.ORIGIN_UNREACHABLE) from failure

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls


def _is_strict(domain: str) -> bool:
    """API Gateway and function URLs know a request by its Host."""
    return ".execute-api." in domain or ".lambda-url." in domain


def _forbidden() -> Response:
    """What API Gateway says to a Host that is not its own (a viewer's Host that was forwarded)."""
    return Response(403, [(b"Content-Type", b"application/json")], b'{"message":"Forbidden"}')
