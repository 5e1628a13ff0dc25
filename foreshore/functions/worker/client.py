"""A Runtime API client in pure Python: fetch an event, call the handler, post what it gave, for ever.

It behaves as AWS's own Python runtime interface client does, down to the bytes of results, errors and log lines; the
tests run the same handlers under both. Standard library only. A result and the request for the next event leave in one
write, so that a warm invocation costs one round trip.

Source: AWS Lambda Developer Guide, "Using the Lambda runtime API".
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple, TextIO, cast

_HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - pathlib costs 3 ms of import


def _neighbour(name: str) -> Any:
    """A module beside this file, kept out of the way of a user's module of the same name."""
    if __package__:
        return importlib.import_module(f"{__package__}.{name}")
    sys.path.insert(0, _HERE)
    try:
        module = importlib.import_module(name)
    finally:
        sys.path.remove(_HERE)
    sys.modules[f"_lambda_runtime_{name}"] = sys.modules.pop(name)
    return module


_context = _neighbour("context")
_json_text = _neighbour("json_text")

_BASE = "/2018-06-01/runtime"
_NEXT = f"GET {_BASE}/invocation/next HTTP/1.1\r\nHost: runtime\r\n\r\n".encode()
_NO_BREAK_SPACE = "\u00a0"
_INIT_WARNING = (
    "LAMBDA_WARNING: Unhandled exception. The most likely cause is an issue in the function code. However, in rare "
    "cases, a Lambda runtime update can cause unexpected function behavior. For functions using managed runtimes, "
    "runtime updates can be triggered by a function change, or can be applied automatically. To determine if the "
    "runtime has been updated, check the runtime version in the INIT_START log entry. If this error correlates with a "
    "change in the runtime version, you may be able to mitigate this error by temporarily rolling back to the previous "
    "runtime version. For more information, see https://docs.aws.amazon.com/lambda/latest/dg/runtimes-update.html\r"
)

Handler = Callable[[Any, Any], Any]


class Fault(Exception):
    """A mistake that the runtime finds itself, with AWS's error type."""

    def __init__(self, kind: str, message: str, trace: list[str] | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.trace = trace or []


class Current(NamedTuple):
    """What the log formatter knows of the running invocation."""

    request_id: str = ""
    tenant_id: str | None = None


_current = Current()


class Unbuffered:
    """A text stream that flushes after each write."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write and flush."""
        count = self._stream.write(text)
        self._stream.flush()
        return count

    def writelines(self, lines: list[str]) -> None:
        """Write all and flush once."""
        self._stream.writelines(lines)
        self._stream.flush()


# Logging, in AWS's two formats


class _Sink(logging.Handler):
    """The root logger's handler."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stdout.write(self.format(record))


def _mark(record: logging.LogRecord) -> bool:
    record.aws_request_id = _current.request_id
    record.tenant_id = _current.tenant_id
    return True


class _JsonFormatter(logging.Formatter):
    """AWS's JSON application log (AWS Lambda Developer Guide, "Configuring JSON and plain text log formats")."""

    _PLAIN = frozenset(logging.LogRecord("", 0, "", 0, "", None, None).__dict__) | {"aws_request_id", "tenant_id"}

    def format(self, record: logging.LogRecord) -> str:
        level = min(50, max(0, record.levelno)) // 10 * 10
        failure = record.exc_info if record.exc_info and record.exc_info[0] else None
        message = record.msg if isinstance(record.msg, dict) and not record.args else record.getMessage()
        line: dict[str, Any] = {
            "timestamp": self.formatTime(record, "%Y-%m-%dT%H:%M:%SZ"),
            "level": logging.getLevelName(level),
            "message": message,
            "logger": record.name,
            "stackTrace": traceback.format_tb(failure[2]) if failure else None,
            "errorType": failure[0].__name__ if failure and failure[0] else None,
            "errorMessage": str(failure[1]) if failure else None,
            "requestId": getattr(record, "aws_request_id", None),
            "location": f"{record.pathname}:{record.funcName}:{record.lineno}" if failure else None,
            "tenantId": getattr(record, "tenant_id", None),
        }
        for key, value in record.__dict__.items():
            if key not in self._PLAIN and key not in line:
                line[key] = value
        kept = {key: value for key, value in line.items() if value is not None}
        return json.dumps(kept, ensure_ascii=False, default=str) + "\n"


def set_up_logging(log_format: str, level: str) -> None:
    """Give the root logger AWS's handler."""
    logging.Formatter.converter = time.gmtime
    sink = _Sink()
    if log_format.upper() == "JSON":
        sink.setFormatter(_JsonFormatter())
    else:
        line = "[%(levelname)s]\t%(asctime)s.%(msecs)03dZ\t%(aws_request_id)s\t%(message)s\n"
        sink.setFormatter(logging.Formatter(line, "%Y-%m-%dT%H:%M:%S"))
    sink.addFilter(_mark)
    root = logging.getLogger()
    level = {"TRACE": "DEBUG"}.get(level, level).upper()
    if level in logging.getLevelNamesMapping():
        root.setLevel(level)
    root.addHandler(sink)


def log_error(error: dict[str, Any]) -> None:
    """Write an error and its stack trace to the log, as one entry."""
    if os.environ.get("AWS_LAMBDA_LOG_FORMAT", "").upper() == "JSON":
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", logging.Formatter.converter(time.time()))
        sys.stdout.write(encode({"timestamp": stamp, "level": "ERROR", **error}) + "\n")
        return
    head = "[ERROR]"
    if error["errorType"]:
        head += f" {error['errorType']}"
    if error["errorMessage"]:
        head += (":" if error["errorType"] else "") + f" {error['errorMessage']}"
    lines = [head, "Traceback (most recent call last):"]
    for element in error["stackTrace"]:
        for line in element.splitlines() or [""]:
            body = line.lstrip(" ")
            lines.append(_NO_BREAK_SPACE * (len(line) - len(body)) + body)
    sys.stdout.write("\r".join(lines) + "\n")


# Values


def encode(value: Any) -> str:
    """JSON text in the form of this runtime version."""
    return str(_json_text.encode(value, os.environ.get("AWS_EXECUTION_ENV", "")))


def make_error(message: str, kind: str, trace: list[str], request_id: str = "") -> dict[str, Any]:
    """AWS's error object; the order of its members is AWS's."""
    return {"errorMessage": message, "errorType": kind, "requestId": request_id, "stackTrace": trace}


def describe(error: BaseException, request_id: str = "") -> tuple[dict[str, Any], str]:
    """The error object and the X-Ray cause of an exception that the user's code raised."""
    frames = user_frames(error.__traceback__)
    kind, message = type(error).__name__, str(error)
    return make_error(message, kind, frames.format(), request_id), xray_cause(kind, message, frames)


def _folder() -> str:
    return os.getcwd()  # noqa: PTH109 - pathlib costs 3 ms of import


def user_frames(trace: TracebackType | None) -> traceback.StackSummary:
    """The frames from the first one that is not the runtime's own."""
    frames = traceback.extract_tb(trace)
    for index, frame in enumerate(frames):
        if os.path.dirname(frame.filename) != _HERE:  # noqa: PTH120
            plain = [(each.filename, each.lineno or 0, each.name, each.line) for each in frames[index:]]
            return traceback.StackSummary.from_list(plain)
    return frames


def xray_cause(kind: str, message: str, frames: traceback.StackSummary) -> str:
    """What the X-Ray console shows of an error."""
    stack = [{"label": frame.name, "path": frame.filename, "line": frame.lineno} for frame in frames]
    paths = sorted({frame.filename for frame in frames})
    failure = {"message": message, "type": kind, "stack": stack}
    return json.dumps({"working_directory": _folder(), "exceptions": [failure], "paths": paths})


def find_handler(name: str) -> Handler:
    """Import `package/module.function`. Raises Fault for the mistakes AWS names; other errors pass as they are."""
    module_name, dot, function_name = name.rpartition(".")
    if not dot:
        raise Fault(
            "Runtime.MalformedHandlerName", f"Bad handler '{name}': not enough values to unpack (expected 2, got 1)"
        )
    if module_name.split(".")[0] in sys.builtin_module_names:
        raise Fault("Runtime.BuiltInModuleConflict", f"Cannot use built-in module {module_name} as a handler module")
    try:
        module = importlib.import_module(module_name.replace("/", "."))
    except ImportError as error:
        raise Fault("Runtime.ImportModuleError", f"Unable to import module '{module_name}': {error}") from None
    except SyntaxError as error:
        trace = [f'  File "{error.filename}" Line {error.lineno}\n    {error.text}']
        raise Fault("Runtime.UserCodeSyntaxError", f"Syntax error in module '{module_name}': {error}", trace) from None
    try:
        handler: Handler = getattr(module, function_name)
    except AttributeError:
        raise Fault("Runtime.HandlerNotFound", f"Handler '{function_name}' missing on module '{module_name}'") from None
    return handler


# The wire


class Event(NamedTuple):
    """One invocation as it came from the Runtime API."""

    headers: dict[str, str]
    body: bytes

    @property
    def request_id(self) -> str:
        """The id to answer under."""
        return self.headers["lambda-runtime-aws-request-id"]


class Connection:
    """One keep-alive connection to the Runtime API."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._pending = b""

    def send(self, *requests: bytes) -> None:
        """Write requests in one go."""
        self._socket.sendall(b"".join(requests))

    def read(self) -> tuple[int, dict[str, str], bytes]:
        """Read one answer: status, headers by lower-case name, body."""
        data = self._pending
        end = data.find(b"\r\n\r\n")
        while end < 0:
            data += self._receive()
            end = data.find(b"\r\n\r\n")
        status_line, *lines = data[:end].decode("latin-1").split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(": ")
            headers[name.lower()] = value
        body_end = end + 4 + int(headers.get("content-length", 0))
        if len(data) < body_end:
            chunks = [data]
            missing = body_end - len(data)
            while missing > 0:
                chunk = self._receive()
                chunks.append(chunk)
                missing -= len(chunk)
            data = b"".join(chunks)
        self._pending = data[body_end:]
        return int(status_line[9:12]), headers, data[end + 4 : body_end]

    def _receive(self) -> bytes:
        chunk = self._socket.recv(262144)
        if not chunk:
            # The supervisor went away: there is nobody left to work for.
            os._exit(0)
        return chunk


def post(path: str, body: bytes, headers: str = "") -> bytes:
    """A POST request to the Runtime API."""
    head = f"POST {_BASE}{path} HTTP/1.1\r\nHost: runtime\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
    return head.encode("latin-1", "replace") + body


def answer(event: Event, handler: Handler) -> bytes:
    """Call the handler; give the request that reports its result or its error."""
    request_id = event.request_id
    try:
        result, content_type = _call(event, handler)
    except Fault as fault:
        error = make_error(fault.message, fault.kind, fault.trace, request_id)
        cause = xray_cause("LambdaValidationError", fault.message, traceback.StackSummary())
    except Exception as raised:
        error, cause = describe(raised, request_id)
    else:
        return post(f"/invocation/{request_id}/response", result, f"Content-Type: {content_type}\r\n")
    log_error(error)
    headers = "Content-Type: application/json\r\nLambda-Runtime-Function-Error-Type: Unhandled\r\n"
    if len(cause) < 65536:
        headers += f"Lambda-Runtime-Function-XRay-Error-Cause: {cause}\r\n"
    return post(f"/invocation/{request_id}/error", encode(error).encode(), headers)


def _call(event: Event, handler: Handler) -> tuple[bytes, str]:
    headers = event.headers
    context = _context.LambdaContext(
        event.request_id,
        _header_json(headers, "lambda-runtime-client-context", "Client Context"),
        _header_json(headers, "lambda-runtime-cognito-identity", "Cognito Identity"),
        int(headers["lambda-runtime-deadline-ms"]),
        headers.get("lambda-runtime-invoked-function-arn", ""),
        headers.get("lambda-runtime-aws-tenant-id"),
    )
    try:
        value = json.loads(event.body)
    except Exception as error:
        raise Fault("Runtime.UnmarshalError", f"Unable to unmarshal input: {error}") from None
    result = handler(value, context)
    if isinstance(result, bytes):
        return result, "application/unknown"
    try:
        return encode(result).encode(), "application/json"
    except Exception as error:
        raise Fault("Runtime.MarshalError", f"Unable to marshal response: {error}") from None


def _header_json(headers: dict[str, str], name: str, what: str) -> Any:
    text = headers.get(name)
    if not text:
        return None
    try:
        return json.loads(text)
    except Exception as error:
        raise Fault("Runtime.LambdaContextUnmarshalError", f"Unable to parse {what} JSON: {error}") from None


def initialize(handler_name: str, connection: Connection) -> Handler:
    """Import the user's code; on failure report it and exit with code 1."""
    try:
        return find_handler(handler_name)
    except Fault as fault:
        error = make_error(fault.message, fault.kind, fault.trace)
    except Exception as raised:
        error, _ = describe(raised)
    logging.warning(_INIT_WARNING)
    log_error(error)
    headers = f"Content-Type: application/json\r\nLambda-Runtime-Function-Error-Type: {error['errorType']}\r\n"
    connection.send(post("/init/error", encode(error).encode(), headers))
    connection.read()
    sys.exit(1)


def run(handler_name: str, address: str) -> None:
    """Serve invocations until the process is ended."""
    global _current
    sys.stdout = cast(TextIO, Unbuffered(sys.stdout))
    sys.stderr = cast(TextIO, Unbuffered(sys.stderr))
    set_up_logging(os.environ.get("AWS_LAMBDA_LOG_FORMAT", ""), os.environ.get("AWS_LAMBDA_LOG_LEVEL", ""))
    connection = Connection(address)
    handler = initialize(handler_name, connection)
    connection.send(_NEXT)
    while True:
        _, headers, body = connection.read()
        event = Event(headers, body)
        _current = Current(event.request_id, headers.get("lambda-runtime-aws-tenant-id"))
        trace_id = headers.get("lambda-runtime-trace-id")
        if trace_id:
            os.environ["_X_AMZN_TRACE_ID"] = trace_id
        else:
            os.environ.pop("_X_AMZN_TRACE_ID", None)
        connection.send(answer(event, handler), _NEXT)
        connection.read()


def main(arguments: list[str]) -> None:
    """`client.py HANDLER`: run in a process of its own, without the fork server."""
    sys.dont_write_bytecode = True
    layers = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [_folder(), *layers, *(path for path in sys.path if path not in (_HERE, *layers))]
    run(arguments[0], os.environ["AWS_LAMBDA_RUNTIME_API"])


if __name__ == "__main__":
    main(sys.argv[1:])
