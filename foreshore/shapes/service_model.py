"""The service layer that every emulated AWS API shares, driven by botocore's own service models.

`ServiceModel.load("iot")` reads the model that the SDKs are generated from. It routes a request to its operation,
reads path, query, header and body into one dict of parameters, checks them as AWS does, and renders an output dict or
an error as the SDK expects it. `Service` joins a model with a table of handlers; an operation that is not in the table
answers NotEmulated in AWS's error shape, so the table is the parity list.

Protocols: rest-json (Smithy restJson1) and json (awsJson1_0, 1_1). It knows no service: what an operation does, and
which limits it has beyond its shapes, is the room's.

Sources: https://smithy.io/2.0/aws/protocols/aws-restjson1-protocol.html,
https://smithy.io/2.0/aws/protocols/aws-json-1_1-protocol.html
"""

from __future__ import annotations

import base64
import binascii
import gzip
import importlib.util
import inspect
import re
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import unquote

import orjson

from foreshore.errors import AwsError, NotEmulated, UserError
from foreshore.http import Headers, Request, Response
from foreshore.shapes import validation
from foreshore.shapes.values import (
    Shapes,
    read_json,
    read_structure,
    read_text,
    write_json,
    write_structure,
    write_text,
)

Params = dict[str, Any]
Item = TypeVar("Item")
_CREDENTIAL = re.compile(r"Credential=([^/,\s]+)/")


class Operation:
    """One operation of a model: its name, HTTP binding and shapes' names ("" when it has no input or output)."""

    __slots__ = ("errors", "input", "labels", "method", "name", "output", "query", "status")

    def __init__(self, name: str, raw: Mapping[str, Any]) -> None:
        http = raw.get("http", {})
        path, _, query = http.get("requestUri", "/").partition("?")
        self.name = name
        self.method: str = http.get("method", "POST")
        self.status: int = http.get("responseCode", 200)
        self.labels = _segments(path)
        self.query = frozenset(part.partition("=")[0] for part in query.split("&") if part)
        self.input: str = raw.get("input", {}).get("shape", "")
        self.output: str = raw.get("output", {}).get("shape", "")
        self.errors: list[str] = [error["shape"] for error in raw.get("errors", ())]


def _segments(path: str) -> list[str]:
    return [segment for segment in path.split("/") if segment]


class _Node:
    """A step of the path tree: literal children first, then a label, then a greedy label (`{name+}`)."""

    __slots__ = ("greedy", "label", "literal", "operations")

    def __init__(self) -> None:
        self.literal: dict[str, _Node] = {}
        self.label: _Node | None = None
        self.greedy: _Node | None = None
        self.operations: list[Operation] = []

    def add(self, operation: Operation) -> None:
        node = self
        for segment in operation.labels:
            if segment.endswith("+}"):
                node.greedy = node.greedy or _Node()
                node = node.greedy
            elif segment.startswith("{"):
                node.label = node.label or _Node()
                node = node.label
            else:
                node = node.literal.setdefault(segment, _Node())
        node.operations.append(operation)
        node.operations.sort(key=lambda each: -len(each.query))

    def find(self, segments: list[str], index: int) -> Iterable[Operation]:
        if index == len(segments):
            yield from self.operations
            return
        literal = self.literal.get(unquote(segments[index]))
        if literal is not None:
            yield from literal.find(segments, index + 1)
        if self.label is not None:
            yield from self.label.find(segments, index + 1)
        if self.greedy is not None:
            yield from self.greedy.operations


class ServiceModel:
    """A service's shapes and operations. `load` reads botocore's newest model of it once and keeps it."""

    def __init__(self, name: str, raw: Mapping[str, Any]) -> None:
        self.name = name
        self.metadata: Mapping[str, Any] = raw["metadata"]
        self.shapes: Shapes = raw["shapes"]
        self.protocol = self._protocol()
        self.operations = {key: Operation(key, value) for key, value in raw["operations"].items()}

    @staticmethod
    def load(name: str) -> ServiceModel:
        """Give the model of a service by botocore's folder name (`iot`, `iot-data`, `greengrassv2`, `lambda`)."""
        return _load(name)

    def _protocol(self) -> str:
        offered = self.metadata.get("protocols") or [self.metadata["protocol"]]
        for protocol in ("rest-json", "json"):
            if protocol in offered:
                return protocol
        raise NotEmulated(f"the {offered[0]} protocol of {self.name}")

    # Requests

    @cached_property
    def _tree(self) -> _Node:
        root = _Node()
        for operation in self.operations.values():
            root.add(operation)
        return root

    def route(self, request: Request) -> Operation:
        """Find the operation a request asks for. Raises AwsError UnknownOperationException (404)."""
        if self.protocol == "json":
            target = request.header("x-amz-target").rpartition(".")[2]
            operation = self.operations.get(target)
            if operation is not None:
                return operation
        else:
            found = self._route_path(request)
            if found is not None:
                return found
        raise AwsError("UnknownOperationException", f"{request.method} {request.path} is no operation.", 404)

    def _route_path(self, request: Request) -> Operation | None:
        keys: set[str] | None = None
        for operation in self._tree.find(_segments(request.raw_path), 0):
            if operation.method != request.method:
                continue
            if operation.query:
                keys = {key for key, _ in request.query} if keys is None else keys
                if not operation.query <= keys:
                    continue
            return operation
        return None

    def parse(self, request: Request) -> tuple[str, Params]:
        """Give the operation's name and its parameters, read and checked. Raises AwsError."""
        operation = self.route(request)
        params = self.read(operation, request)
        self.validate(operation, params)
        return operation.name, params

    def read(self, operation: Operation, request: Request) -> Params:
        """Read a request's parameters by the operation's input shape; nothing is checked but types."""
        if not operation.input:
            return {}
        shape = self.shapes[operation.input]
        if self.protocol == "json":
            return read_structure(self.shapes, shape, _json_body(request.body))
        params: Params = {}
        payload = shape.get("payload")
        if payload is not None:
            self._read_payload(params, payload, shape["members"][payload], request.body)
        elif self._has_body(operation.input):
            params.update(read_structure(self.shapes, shape, _json_body(request.body)))
        self._read_bound(params, operation, request)
        return params

    def _has_body(self, name: str) -> bool:
        return any("location" not in traits for traits in self.shapes[name]["members"].values())

    def _read_payload(self, params: Params, name: str, traits: Mapping[str, Any], body: bytes) -> None:
        kind = self.shapes[traits["shape"]]["type"]
        if kind == "blob":
            params[name] = body
        elif kind == "string":
            params[name] = body.decode("utf-8", "replace")
        elif body:
            params[name] = read_json(self.shapes, traits["shape"], _json_body(body))

    def _read_bound(self, params: Params, operation: Operation, request: Request) -> None:
        members = self.shapes[operation.input]["members"]
        labels = _labels(operation, _segments(request.raw_path))
        query: dict[str, list[str]] = {}
        if request.query_string:
            for key, value in request.query:
                query.setdefault(key, []).append(value)
        for member, traits in members.items():
            location = traits.get("location")
            if location is None:
                continue
            value = self._bound_value(location, traits, member, labels, query, request, members)
            if value is not None:
                params[member] = value

    def _bound_value(
        self,
        location: str,
        traits: Mapping[str, Any],
        member: str,
        labels: Mapping[str, str],
        query: Mapping[str, list[str]],
        request: Request,
        members: Mapping[str, Any],
    ) -> Any:
        key = traits.get("locationName", member)
        shape = self.shapes[traits["shape"]]
        if location == "uri":
            text = labels.get(key)
            return None if text is None else read_text(self.shapes, traits["shape"], text, traits)
        if location == "querystring":
            if shape["type"] == "map":
                return _query_map(self.shapes, shape, query, members)
            values = query.get(key)
            if values is None:
                return None
            if shape["type"] == "list":
                each = shape["member"]["shape"]
                return [read_text(self.shapes, each, text, traits) for text in values]
            return read_text(self.shapes, traits["shape"], values[0], traits)
        if location == "header":
            text = request.header(key)
            return read_text(self.shapes, traits["shape"], text, traits) if text else None
        if location == "headers":
            found = {
                name.decode("latin-1")[len(key) :]: value.decode("latin-1")
                for name, value in request.headers
                if name.decode("latin-1").lower().startswith(key.lower())
            }
            return found or None
        return None

    def validate(self, operation: Operation, params: Params) -> None:
        """Check required members, lengths, ranges, patterns and enums. Raises AwsError as the service words it."""
        if not operation.input:
            return
        found = validation.problems(self.shapes, operation.input, params)
        if found:
            raise AwsError(self.invalid_code(operation), validation.message(found), 400)

    def invalid_code(self, operation: Operation) -> str:
        """The code an operation answers for parameters that break its model."""
        for code in ("InvalidRequestException", "ValidationException"):
            if code in operation.errors:
                return code
        return "ValidationException"

    # Answers

    def render(self, operation: Operation, output: Mapping[str, Any], request_id: str) -> Response:
        """Shape an output dict. A member that the output shape lacks is a Bug."""
        headers: Headers = [(b"x-amzn-RequestId", request_id.encode())]
        if self.protocol == "json":
            version = self.metadata.get("jsonVersion", "1.0")
            headers.append((b"Content-Type", f"application/x-amz-json-{version}".encode()))
            body = write_structure(self.shapes, operation.output, output) if operation.output else {}
            return Response(200, headers, orjson.dumps(body))
        if not operation.output:
            return Response(operation.status, headers)
        return self._render_rest(operation, output, headers)

    def _render_rest(self, operation: Operation, output: Mapping[str, Any], headers: Headers) -> Response:
        shape = self.shapes[operation.output]
        members = shape["members"]
        status = operation.status
        bound = set()
        for member, traits in members.items():
            location = traits.get("location")
            value = output.get(member)
            if location is None:
                continue
            bound.add(member)
            if value is None:
                continue
            if location == "statusCode":
                status = int(value)
            elif location == "headers":
                prefix = traits.get("locationName", "")
                headers += [((prefix + key).encode(), str(text).encode()) for key, text in value.items()]
            else:
                text = write_text(self.shapes, traits["shape"], value, traits)
                headers.append((traits.get("locationName", member).encode(), text.encode("utf-8")))
        payload = shape.get("payload")
        if payload is not None:
            return self._render_payload(members[payload]["shape"], output.get(payload), status, headers)
        headers.append((b"Content-Type", b"application/json"))
        body = write_structure(self.shapes, operation.output, output, frozenset(bound))
        return Response(status, headers, orjson.dumps(body))

    def _render_payload(self, name: str, value: Any, status: int, headers: Headers) -> Response:
        kind = self.shapes[name]["type"]
        has_type = any(key.lower() == b"content-type" for key, _ in headers)
        if kind in ("blob", "string"):
            if not has_type:
                headers.append((b"Content-Type", b"application/octet-stream" if kind == "blob" else b"text/plain"))
            body = value.encode() if isinstance(value, str) else value or b""
            return Response(status, headers, cast("bytes | AsyncIterator[bytes]", body))
        if not has_type:
            headers.append((b"Content-Type", b"application/json"))
        return Response(status, headers, orjson.dumps({} if value is None else write_json(self.shapes, name, value)))

    def render_error(self, error: AwsError, request_id: str) -> Response:
        """Shape an error: the model's own HTTP status and members when it knows the code, else the error's."""
        shape = self.shapes.get(error.code, {})
        is_known = bool(shape.get("exception")) and shape.get("type") == "structure"
        members: Mapping[str, Any] = shape.get("members", {}) if is_known else {}
        status = shape.get("error", {}).get("httpStatusCode", error.status) if is_known else error.status
        message_name = next((name for name in members if name.lower() == "message"), "message")
        body: Params = {message_name: error.message}
        headers: Headers = [
            (b"x-amzn-RequestId", request_id.encode()),
            (b"x-amzn-ErrorType", error.code.encode()),
        ]
        if "Type" in members:
            body["Type"] = "User" if status < 500 else "Service"
        for key, value in error.extra.items():
            traits = members.get(key, {})
            if traits.get("location") == "header":
                headers.append((traits.get("locationName", key).encode(), str(value).encode()))
            else:
                body[key] = value
        if self.protocol == "json":
            version = self.metadata.get("jsonVersion", "1.0")
            body = {"__type": error.code, **body}
            headers.append((b"Content-Type", f"application/x-amz-json-{version}".encode()))
        else:
            headers.append((b"Content-Type", b"application/json"))
        return Response(status, headers, orjson.dumps(body, default=str))


@lru_cache(maxsize=32)
def _load(name: str) -> ServiceModel:
    return ServiceModel(name, orjson.loads(_model_text(name)))


def _model_text(name: str) -> bytes:
    """The newest model in botocore's data folder; importing botocore itself would cost 130 ms more."""
    found = importlib.util.find_spec("botocore")
    if found is None or not found.submodule_search_locations:
        raise UserError("botocore is not installed", code="no-service-model", mend="install boto3")
    folder = Path(found.submodule_search_locations[0]) / "data" / name
    versions = sorted(folder.glob("*/service-2.json*"))
    if not versions:
        raise UserError(f"botocore has no service model {name!r}", code="no-service-model")
    data = versions[-1].read_bytes()
    return gzip.decompress(data) if versions[-1].suffix == ".gz" else data


def _json_body(body: bytes) -> Any:
    if not body:
        return {}
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        raise AwsError("SerializationException", "Could not parse request body into json", 400) from None


def _labels(operation: Operation, segments: list[str]) -> dict[str, str]:
    labels = {}
    for index, part in enumerate(operation.labels):
        if part.endswith("+}"):
            labels[part[1:-2]] = unquote("/".join(segments[index:]))
        elif part.startswith("{"):
            labels[part[1:-1]] = unquote(segments[index])
    return labels


def _query_map(
    shapes: Shapes, shape: Mapping[str, Any], query: Mapping[str, list[str]], members: Mapping[str, Any]
) -> Params | None:
    """A map bound to the query string takes every key that no other member names."""
    taken = {traits.get("locationName", member) for member, traits in members.items() if "location" in traits}
    is_list = shapes[shape["value"]["shape"]]["type"] == "list"
    found = {key: values if is_list else values[0] for key, values in query.items() if key not in taken}
    return found or None


# A service


@dataclass(frozen=True, slots=True)
class CallContext:
    """What a handler may know of its call beyond the parameters. `access_key` is "" for unsigned requests."""

    operation: str
    request: Request
    request_id: str
    access_key: str = ""


OperationHandler = Callable[[Params, CallContext], Any]
"""`(params, context) -> dict | None | Response`, or an awaitable of one."""


class Service:
    """An emulated service: a model and its handlers. `handle` never raises AwsError: it answers it."""

    def __init__(self, model: ServiceModel, operations: Mapping[str, OperationHandler]) -> None:
        unknown = set(operations) - set(model.operations)
        if unknown:
            raise UserError(f"{model.name} has no operation {', '.join(sorted(unknown))}", code="no-operation")
        self.model = model
        self.operations = dict(operations)

    def not_emulated(self) -> list[str]:
        """The names of those that answer NotEmulated, sorted."""
        return sorted(set(self.model.operations) - set(self.operations))

    async def handle(self, request: Request) -> Response:
        """Answer one request."""
        request_id = new_request_id()
        try:
            operation = self.model.route(request)
            handler = self.operations.get(operation.name)
            if handler is None:
                raise NotEmulated(f"{self.model.metadata.get('serviceId', self.model.name)} {operation.name}")
            params = self.model.read(operation, request)
            self.model.validate(operation, params)
            context = CallContext(operation.name, request, request_id, access_key(request))
            output = handler(params, context)
            if inspect.isawaitable(output):
                output = await output
            if isinstance(output, Response):
                return output
            return self.model.render(operation, output or {}, request_id)
        except AwsError as error:
            return self.model.render_error(error, request_id)


def new_request_id() -> str:
    """A random id in the form of AWS's (a version 4 UUID, RFC 9562)."""
    text = secrets.token_hex(16)
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-a{text[17:20]}-{text[20:]}"


def access_key(request: Request) -> str:
    """The access key id that signed a request (SigV4 Authorization header), or ""."""
    found = _CREDENTIAL.search(request.header("authorization"))
    return found[1] if found else ""


# Pagination


def paginate(
    items: Iterable[Item],
    token: str | None,
    limit: int | None,
    *,
    key: Callable[[Item], str] = str,
    code: str = "InvalidRequestException",
    default: int = 100,
    reverse: bool = False,
) -> tuple[list[Item], str | None]:
    """Give one page of `items`, which are sorted by `key` (unique), and the token of the next page or None.

    `reverse` says that they are sorted from the greatest key down. The token is opaque and names the last item given,
    so it stays right when items come and go between pages.
    Raises AwsError `code` for a token that is not ours.
    """
    after = read_token(token, code) if token else None
    size = limit or default
    page: list[Item] = []
    for item in items:
        if after is not None and (key(item) >= after if reverse else key(item) <= after):
            continue
        if len(page) == size:
            return page, write_token(key(page[-1]))
        page.append(item)
    return page, None


def write_token(text: str) -> str:
    """Make an opaque pagination token."""
    return base64.urlsafe_b64encode(b"f1:" + text.encode()).decode()


def read_token(token: str, code: str = "InvalidRequestException") -> str:
    """Read a token of `write_token`. Raises AwsError `code`."""
    try:
        data = base64.urlsafe_b64decode(token.encode())
        if not data.startswith(b"f1:"):
            raise ValueError
        return data[3:].decode()
    except (binascii.Error, ValueError):
        raise AwsError(code, "The pagination token is not valid.", 400) from None
