"""A distribution on real sockets, with an origin that answers from a table and functions that are plain callables."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from foreshore.cloudfront.server import Distribution, OriginAddress
from foreshore.errors import AwsError
from foreshore.http import Client, Request, Response, Server
from foreshore.seams import InvokeResult, LogLine, Span

ARN = "arn:aws:lambda:us-east-1:000000000000:function:"
DISABLED = "4135ea2d-6df8-44a3-9df3-4b5a84be39ad"
OPTIMIZED = "658327ea-f89d-4fab-a63d-7e88639e58f6"


class Edge:
    """`pages` maps a path to what the origin answers: a Response, or a callable from the request."""

    def __init__(self, config: dict[str, Any] | None = None, **options: Any) -> None:
        self.pages: dict[str, Any] = {}
        self.seen: list[Request] = []
        self.functions: dict[str, Callable[[Any, Any], Any]] = {}
        self.events: list[Any] = []
        self.raw: dict[str, InvokeResult | AwsError] = {}
        self.spans: list[Span] = []
        self.logs: list[LogLine] = []
        self.origin = Server(self._answer)
        self.config = config or {}
        self.options = options
        self.client = Client()

    async def __aenter__(self) -> Edge:
        config = {
            "Origins": [
                {
                    "Id": "main", "DomainName": "origin.example",
                    "CustomOriginConfig": {"OriginProtocolPolicy": "http-only"},
                },
            ],
            "DefaultCacheBehavior": {
                "TargetOriginId": "main", "ViewerProtocolPolicy": "allow-all", "CachePolicyId": OPTIMIZED,
            },
            **self.config,
        }  # fmt: skip
        self.distribution = Distribution(
            logical_id="Site", distribution_id="E1234567890ABC", domain_name="d111.cloudfront.net", config=config,
            invoke=self._invoke, resolve_origin=self._resolve, span=self.spans.append, log=self.logs.append,
            **{"policies": {}, **self.options},
        )  # fmt: skip
        self.origin_port = await self.origin.start("127.0.0.1", 0)
        self.port = await self.distribution.start("127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()
        await self.distribution.stop()
        await self.origin.stop()

    def _resolve(self, domain: str) -> OriginAddress:
        if domain.startswith("down."):
            return OriginAddress("127.0.0.1", 1, False, domain)
        return OriginAddress("127.0.0.1", self.origin_port, False, domain)

    def _answer(self, request: Request) -> Response | Awaitable[Response]:
        self.seen.append(request)
        page = self.pages.get(request.raw_path)
        if page is None:
            return Response(404, [(b"Content-Type", b"text/plain")], b"not here")
        if callable(page):
            return page(request)
        return Response(page.status, list(page.headers), page.body)

    async def _invoke(self, function: str, payload: bytes, **_: Any) -> InvokeResult:
        event = json.loads(payload)
        self.events.append(json.loads(payload))
        raw = self.raw.get(function)
        if isinstance(raw, AwsError):
            raise raw
        if raw is not None:
            return raw
        await asyncio.sleep(0)
        try:
            return InvokeResult(json.dumps(self.functions[function](event, None)).encode())
        except Exception as error:
            return InvokeResult(json.dumps({"errorType": type(error).__name__}).encode(), "Unhandled")

    async def get(self, target: str, method: str = "GET", body: bytes = b"", **headers: str) -> Response:
        pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        return await self.client.fetch(method, "127.0.0.1", self.port, target, pairs, body)


def default(**members: Any) -> dict[str, Any]:
    """A config whose default behaviour has these members too."""
    base = {"TargetOriginId": "main", "ViewerProtocolPolicy": "allow-all", "CachePolicyId": OPTIMIZED}
    return {"DefaultCacheBehavior": {**base, **members}}


def trigger(event: str, name: str = "f", **more: Any) -> dict[str, Any]:
    """One LambdaFunctionAssociation."""
    return {"EventType": event, "LambdaFunctionARN": f"{ARN}{name}:1", **more}


def text(body: bytes, *headers: tuple[str, str], status: int = 200) -> Response:
    """An origin's answer."""
    return Response(status, [(k.encode(), v.encode()) for k, v in (("Content-Type", "text/plain"), *headers)], body)
