"""Signed calls to AWS's own APIs at the backend: the JSON protocol, the query protocol and plain REST.

Three protocols in a page cost nothing to import; boto3 costs 230 ms. Errors become ActionFailed with AWS's code;
throttling and 5xx answers are transient, as are refused connections and timeouts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

import orjson

from foreshore.errors import PeerError
from foreshore.http import Client, Response
from foreshore.iot.rules.actions.failures import ActionFailed
from foreshore.iot.rules.actions.signing import Credentials, sign

TIMEOUT_S = 10.0
_TRANSIENT = re.compile(r"Throttl|TooManyRequests|RequestLimitExceeded|ServiceUnavailable|InternalFailure|SlowDown")
_XML_CODE = re.compile(rb"<Code>([^<]*)</Code>")
_XML_MESSAGE = re.compile(rb"<Message>([^<]*)</Message>", re.IGNORECASE)


class Aws:
    """A client of the backend. `backend_url` is asked at every call, because a backend may move when it restarts;
    `tls` gives the SSL context for an https one."""

    def __init__(
        self,
        client: Client,
        *,
        region: str,
        backend_url: Callable[[], str],
        credentials: Callable[[], Credentials],
        stamp: Callable[[], str],
        tls: Callable[[], Any],
    ) -> None:
        self.client = client
        self.tls = tls
        self.region = region
        self.backend_url = backend_url
        self.credentials = credentials
        self.stamp = stamp

    async def send(
        self,
        service: str,
        method: str,
        target: str,
        *,
        headers: list[tuple[str, str]] | None = None,
        body: bytes = b"",
        base: str = "",
        signing_region: str = "",
        timeout: float = TIMEOUT_S,
    ) -> Response:
        """One signed request. Raises ActionFailed."""
        url = urlsplit(base or self.backend_url())
        tls = url.scheme == "https"
        port = url.port or (443 if tls else 80)
        host = url.hostname or "127.0.0.1"
        shown = host if port == (443 if tls else 80) else f"{host}:{port}"
        target = url.path.rstrip("/") + target
        signed = sign(
            self.credentials(), method=method, host=shown, target=target, headers=headers or [], body=body,
            service=service, region=signing_region or self.region, stamp=self.stamp(),
        )  # fmt: skip
        try:
            response = await self.client.fetch(
                method, host, port, target, signed, body, ssl=self.tls() if tls else None,
                connect_timeout=min(timeout, 3.0), timeout=timeout,
            )  # fmt: skip
        except (OSError, TimeoutError, PeerError) as error:
            raise ActionFailed(f"{service} at {shown}: {str(error) or type(error).__name__}", transient=True) from error
        if response.status >= 300:
            raise self.failure(service, response)
        return response

    def failure(self, service: str, response: Response) -> ActionFailed:
        """What an error answer says, whatever its protocol."""
        body = response.body if isinstance(response.body, bytes) else b""
        code, message = response.header("x-amzn-errortype").partition(":")[0], ""
        try:
            found = orjson.loads(body)
            if isinstance(found, dict):
                code = str(found.get("__type", code) or code).rpartition("#")[2]
                message = str(found.get("message") or found.get("Message") or "")
        except ValueError:
            in_xml = _XML_CODE.search(body)
            code = in_xml[1].decode() if in_xml else code
            text = _XML_MESSAGE.search(body)
            message = text[1].decode() if text else body[:200].decode("utf-8", "replace")
        transient = (response.status >= 500 and response.status != 501) or response.status == 429
        text_ = f"{code or f'HTTP {response.status}'}: {message}".strip()
        return ActionFailed(f"{service}: {text_}", transient=transient or bool(_TRANSIENT.search(code)))

    async def json(self, service: str, target: str, body: Mapping[str, Any], version: str = "1.1") -> dict[str, Any]:
        """One call of the JSON protocol: `target` is X-Amz-Target, `version` 1.0 or 1.1."""
        headers = [("Content-Type", f"application/x-amz-json-{version}"), ("X-Amz-Target", target)]
        response = await self.send(service, "POST", "/", headers=headers, body=orjson.dumps(body))
        return _object(response)

    async def query(self, service: str, action: str, version: str, parameters: Mapping[str, str]) -> bytes:
        """One call of the query protocol; gives the XML."""
        body = urlencode({"Action": action, "Version": version, **parameters}).encode()
        headers = [("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")]
        response = await self.send(service, "POST", "/", headers=headers, body=body)
        return response.body if isinstance(response.body, bytes) else b""

    async def rest(self, service: str, method: str, target: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """One call of the REST-JSON protocol."""
        headers = [("Content-Type", "application/json")]
        return _object(await self.send(service, method, target, headers=headers, body=orjson.dumps(body)))


def _object(response: Response) -> dict[str, Any]:
    try:
        found = orjson.loads(response.body) if isinstance(response.body, bytes) and response.body else {}
    except ValueError as error:
        raise ActionFailed(f"the answer is no JSON: {error}") from None
    return found if isinstance(found, dict) else {}
