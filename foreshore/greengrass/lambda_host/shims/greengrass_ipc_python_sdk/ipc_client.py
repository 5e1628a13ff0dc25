"""`IPCClient` as greengrasssdk knows it, without the local HTTP server of Greengrass V1: it calls the host in process.

The host installs its `Invoke`. Outside a host every call raises IPCException with a text that says so.
"""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn

Invoke = Callable[[str, bytes, Mapping[str, Any], str], "tuple[bytes, str]"]
"""(function ARN, payload, client context, "Event" or "RequestResponse") -> (result, function error or "")."""


class IPCException(Exception):
    """A call could not be made, or was refused."""


class WorkItem:
    """One piece of work for a function."""

    def __init__(self, invocation_id: str, payload: bytes, client_context: Any = None) -> None:
        self.invocation_id = invocation_id
        self.payload = payload
        self.client_context = client_context


class GetWorkResultOutput(NamedTuple):
    """A function's answer; `func_err` is "" when it succeeded (greengrasssdk compares with != '')."""

    payload: bytes
    func_err: str


_invoke: Invoke | None = None


def install(invoke: Invoke | None) -> None:
    """Called by the host: from now on calls go to `invoke`."""
    global _invoke
    _invoke = invoke


class IPCClient:
    """Posts work to functions and fetches the results. `endpoint` and `port` are accepted and unused."""

    def __init__(self, endpoint: str = "localhost", port: int | None = None) -> None:
        self.endpoint = endpoint
        self.port = port
        self._results: dict[str, GetWorkResultOutput] = {}

    def set_gg_daemon_port(self, port: int) -> None:
        """Accepted and unused: there is no port."""
        self.port = port

    def post_work(
        self, function_arn: str, payload: Any, client_context: bytes | str, invocation_type: str = "RequestResponse"
    ) -> str:
        """Invoke a function; give the invocation's id. Raises IPCException."""
        if _invoke is None:
            raise IPCException("no Lambda host is running in this process")
        try:
            context = json.loads(base64.b64decode(client_context)) if client_context else {}
        except ValueError as error:
            raise IPCException(f"the client context is not base64 of JSON: {error}") from error
        payload_out, error_out = _invoke(function_arn, _as_bytes(payload), context, invocation_type)
        invocation_id = str(uuid.uuid4())
        if invocation_type != "Event":
            self._results[invocation_id] = GetWorkResultOutput(payload_out, error_out)
        return invocation_id

    def get_work_result(self, function_arn: str, invocation_id: str) -> GetWorkResultOutput:
        """The result of a RequestResponse invocation, once. Raises IPCException."""
        try:
            return self._results.pop(invocation_id)
        except KeyError:
            raise IPCException(f"no result for invocation {invocation_id} of {function_arn}") from None

    def get_work(self, function_arn: str) -> NoReturn:
        """Raises IPCException: the host hands work to the handler itself."""
        raise IPCException("get_work belongs to the Greengrass V1 runtime loop; this host calls the handler itself")

    def post_work_result(self, function_arn: str, work_item: WorkItem) -> NoReturn:
        """Raises IPCException: the host takes the handler's result itself."""
        raise IPCException("post_work_result belongs to the Greengrass V1 loop; return from the handler instead")

    def post_handler_err(self, function_arn: str, invocation_id: str, handler_err: Any) -> NoReturn:
        """Raises IPCException: the host sees the handler's exception itself."""
        raise IPCException("post_handler_err belongs to the Greengrass V1 runtime loop; raise from the handler instead")

    def put_initialization_result(self, function_arn: str, error: Any) -> None:
        """Accepted: the host reports its own state by running or exiting."""


def _as_bytes(payload: Any) -> bytes:
    """Payloads are bytes, text or a file-like object."""
    if hasattr(payload, "read"):
        payload = payload.read()
    if isinstance(payload, str):
        return payload.encode()
    return bytes(payload)
