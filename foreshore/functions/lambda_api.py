"""The Lambda API's control plane and Invoke, on the AWS endpoint.

What is not in the table answers NotEmulated. Invoke has a path of its own, ahead of the generic service layer: it is
the hot one. Source: AWS Lambda API Reference, 2015-03-31.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

import orjson

from foreshore.errors import AwsError, NotEmulated
from foreshore.functions import outcomes, response_stream
from foreshore.functions.function_settings import FunctionSettings
from foreshore.functions.invocations import new_uuid
from foreshore.functions.operations import Json, Operations, listed, page, stamp, table_of
from foreshore.functions.registry import Alias, Function, Version, sha256_text
from foreshore.functions.spec import (
    LATEST,
    MAX_INVOKE_ASYNC_PAYLOAD,
    FunctionName,
    FunctionSpec,
)
from foreshore.http import Headers, Request, Response
from foreshore.seams import InvocationType, InvokeResult, from_amzn_trace_id
from foreshore.shapes.service_model import CallContext, Service, ServiceModel

_INVOKE_PREFIX = "/2015-03-31/functions/"
_INVOKE_SUFFIX = "/invocations"
_NOT_HERE = {len(name): name for name in (b"x-amz-tenant-id", b"x-amz-durable-execution-name")}
_TYPES = ("RequestResponse", "Event", "DryRun")


class LambdaApi(Operations):
    """Answers the Lambda API: invoking, functions, versions and aliases here, the rest from `FunctionSettings`."""

    async def handle(self, request: Request) -> Response:
        """Answer one request; errors come in AWS's shape."""
        target = request.raw_path
        if request.method == "POST" and target.startswith(_INVOKE_PREFIX) and target.endswith(_INVOKE_SUFFIX):
            try:
                return await self._invoke(target[len(_INVOKE_PREFIX) : -len(_INVOKE_SUFFIX)], request)
            except AwsError as error:
                return self.service.model.render_error(error, new_uuid())
        return await self.service.handle(request)

    @cached_property
    def service(self) -> Service:
        """The generic layer with our operations; loading the model is put off until somebody asks."""
        table = table_of(self) | table_of(FunctionSettings(self.functions)) | table_of(self.functions.event_sources)
        return Service(ServiceModel.load("lambda"), table)

    # Invoke

    async def do_invoke(self, params: Json, context: CallContext) -> Response:
        """Invoke, when its path is not written as SDKs write it."""
        return await self._invoke(params["FunctionName"], context.request)

    async def _invoke(self, name: str, request: Request) -> Response:
        qualifier = invocation_type = tail = context = trace = x_ray = ""
        for key, value in request.headers:
            size = len(key)
            if size == 21 and key.lower() == b"x-amz-invocation-type":
                invocation_type = value.decode("latin-1")
            elif size == 14 and key.lower() == b"x-amz-log-type":
                tail = value.decode("latin-1")
            elif size == 20 and key.lower() == b"x-amz-client-context":
                context = value.decode("latin-1")
            elif size == 11 and key.lower() == b"traceparent":
                trace = value.decode("latin-1")
            elif size == 15 and key.lower() == b"x-amzn-trace-id":
                x_ray = value.decode("latin-1")
            elif size in _NOT_HERE and key.lower() == _NOT_HERE[size]:
                raise NotEmulated(f"the header {key.decode()} of Invoke")
        if request.query_string:
            qualifier = dict(request.query).get("Qualifier", "")
        result = await self.functions.invoke(
            unquote(name),
            request.body,
            invocation_type=_invocation_type(invocation_type),
            client_context=_client_context(context),
            traceparent=trace or from_amzn_trace_id(x_ray),
            qualifier=qualifier,
        )
        headers: Headers = [
            (b"Content-Type", b"application/json"),
            (b"x-amzn-RequestId", (result.request_id or new_uuid()).encode()),
            (b"X-Amz-Executed-Version", result.executed_version.encode()),
        ]
        if result.function_error:
            headers.append((b"X-Amz-Function-Error", result.function_error.encode()))
        if tail == "Tail" and result.status == 200:
            headers.append((b"X-Amz-Log-Result", base64.b64encode(result.log_tail)))
        return Response(result.status, headers, result.payload)

    async def do_invoke_with_response_stream(self, params: Json, context: CallContext) -> Response:
        """InvokeWithResponseStream: parts as the runtime posts them, one part for a buffered result."""
        if params.get("InvocationType") == "DryRun":
            raise NotEmulated("DryRun of InvokeWithResponseStream")
        _refuse(params, "TenantId")
        name = self.registry.name_of(params["FunctionName"], params.get("Qualifier") or "")
        function, version = self.registry.resolve(name)
        payload = self.functions.checked(bytes(params.get("Payload") or b""), "RequestResponse")
        parts: asyncio.Queue[bytes | None] = asyncio.Queue()
        done = self.functions.run(
            function,
            version,
            payload,
            self.registry.arn(name.name, name.qualifier),
            client_context=_client_context(params.get("ClientContext") or ""),
            traceparent=context.request.header("traceparent") or None,
            sink=parts.put_nowait,
        )
        done.add_done_callback(lambda _: parts.put_nowait(None))
        headers: Headers = [
            (b"Content-Type", response_stream.CONTENT_TYPE.encode()),
            (b"x-amzn-RequestId", context.request_id.encode()),
            (b"X-Amz-Executed-Version", version.spec.version.encode()),
        ]
        return Response(200, headers, _stream(parts, done, params.get("LogType") == "Tail"))

    async def do_invoke_async(self, params: Json, context: CallContext) -> Json:
        """The deprecated InvokeAsync: 256 KB, 202."""
        payload = cast(bytes, params.get("InvokeArgs") or b"")
        if len(payload) > MAX_INVOKE_ASYNC_PAYLOAD:
            raise outcomes.too_large(MAX_INVOKE_ASYNC_PAYLOAD)
        await self.functions.invoke(params["FunctionName"], payload, invocation_type="Event")
        return {"Status": 202}

    # Functions

    async def do_create_function(self, params: Json, context: CallContext) -> Json:
        """CreateFunction."""
        name = self.registry.name_of(params["FunctionName"]).name
        if name in self.registry.functions:
            raise AwsError("ResourceConflictException", f"Function already exist: {name}", 409, {"Type": "User"})
        spec = _configured(FunctionSpec(name, Path(), handler="", runtime="", role=params["Role"]), params)
        if params.get("PackageType") == "Image":
            raise NotEmulated("functions from container images")
        package = await self._package(params.get("Code") or {})
        spec = self._checked(spec, params)
        folder = self.functions.store.unpack(name, package)
        version = Version(replace(spec, code=folder), time.time(), new_uuid(), sha256_text(package), len(package))
        function = Function(name, version, tags=dict(params.get("Tags") or {}))
        self.registry.functions[name] = function
        if params.get("Publish"):
            version = self.registry.publish(function, time.time(), new_uuid())
        self._changed(function)
        return self._configuration(function, version)

    async def _package(self, code: Mapping[str, Any]) -> bytes:
        if code.get("ZipFile"):
            return bytes(code["ZipFile"])
        if code.get("S3Bucket") == "hot-reload":
            raise NotEmulated(
                "the hot-reload bucket", "A function of a template runs from its folder and reloads by itself."
            )
        if code.get("S3Bucket") and code.get("S3Key"):
            try:
                return await self.functions.aws.get_object(
                    code["S3Bucket"], code["S3Key"], code.get("S3ObjectVersion") or ""
                )
            except AwsError as error:
                raise AwsError(
                    "InvalidParameterValueException",
                    f"Error occurred while GetObject. S3 Error Code: {error.code}. S3 Error Message: {error.message}",
                ) from error
        if code.get("ImageUri"):
            raise NotEmulated("functions from container images")
        raise AwsError("InvalidParameterValueException", "Please provide a source for function code.")

    def _checked(self, spec: FunctionSpec, params: Json) -> FunctionSpec:
        """A function's new settings, when they can be; what of them has no effect is said. Raises AwsError."""
        spec.check()
        if params.get("Layers"):
            raise NotEmulated("layers by ARN", "Layers from a template's local folders work.")
        if (params.get("LoggingConfig") or {}).get("SystemLogLevel"):
            self.functions.warn(spec.name, "LoggingConfig.SystemLogLevel has no effect: START, END and REPORT are text")
        return spec

    def _changed(self, function: Function) -> None:
        """Keep a function's new settings and let its old environments go."""
        self.functions.usage(function.name)
        self.functions.store.save_function(function)
        self.functions.drop_pools(function.name)

    async def do_update_function_code(self, params: Json, context: CallContext) -> Json:
        """UpdateFunctionCode."""
        _refuse(params, "PublishTo")
        function = self._function(params)
        self._check_revision(function.latest.revision, params)
        package = await self._package({**params, "ZipFile": params.get("ZipFile")})
        folder = self.functions.store.unpack(function.name, package)
        if params.get("DryRun"):
            return self._configuration(function, function.latest)
        spec = replace(function.latest.spec, code=folder)
        if params.get("Architectures"):
            spec = replace(spec, architecture=params["Architectures"][0])
        function.latest = Version(spec, time.time(), new_uuid(), sha256_text(package), len(package))
        function.is_from_template = False
        version = function.latest
        if params.get("Publish"):
            version = self.registry.publish(function, time.time(), new_uuid())
        self._changed(function)
        return self._configuration(function, version)

    def do_update_function_configuration(self, params: Json, context: CallContext) -> Json:
        """UpdateFunctionConfiguration."""
        function = self._function(params)
        self._check_revision(function.latest.revision, params)
        spec = self._checked(_configured(function.latest.spec, params), params)
        function.latest = replace(function.latest, spec=spec, modified=time.time(), revision=new_uuid())
        self._changed(function)
        return self._configuration(function, function.latest)

    def do_get_function(self, params: Json, context: CallContext) -> Json:
        """GetFunction."""
        function, version = self._version(params)
        answer: Json = {
            "Configuration": self._configuration(function, version),
            "Code": {"RepositoryType": "S3", "Location": version.spec.code.as_uri()},
        }
        if function.tags:
            answer["Tags"] = dict(function.tags)
        if function.reserved_concurrency is not None:
            answer["Concurrency"] = {"ReservedConcurrentExecutions": function.reserved_concurrency}
        return answer

    def do_get_function_configuration(self, params: Json, context: CallContext) -> Json:
        """GetFunctionConfiguration."""
        return self._configuration(*self._version(params))

    def do_list_functions(self, params: Json, context: CallContext) -> Json:
        """ListFunctions."""
        names = sorted(self.registry.functions)
        names, token = page(names, params)
        items = []
        for name in names:
            function = self.registry.functions[name]
            versions = [function.latest]
            if params.get("FunctionVersion") == "ALL":
                versions += function.versions.values()
            items += [self._configuration(function, version) for version in versions]
        return listed("Functions", items, token)

    def do_delete_function(self, params: Json, context: CallContext) -> Json:
        """DeleteFunction: one version, or the whole function."""
        name = self.registry.name_of(params["FunctionName"], params.get("Qualifier", ""))
        function = self.registry.get(name)
        if name.qualifier:
            if name.qualifier == LATEST:
                raise AwsError(
                    "InvalidParameterValueException", "$LATEST version cannot be deleted without deleting the function."
                )
            users = [
                alias.name
                for alias in function.aliases.values()
                if name.qualifier in (alias.version, alias.extra_version)
            ]
            if users:
                raise AwsError(
                    "ResourceConflictException", f"Version {name.qualifier} is used by {', '.join(users)}.", 409
                )
            function.versions.pop(name.qualifier, None)
            self._changed(function)
            return {"StatusCode": 204}
        del self.registry.functions[function.name]
        self.functions.drop_pools(function.name)
        self.functions.usages.pop(function.name, None)
        self.functions.store.delete_function(function.name)
        return {"StatusCode": 204}

    # Versions and aliases

    def do_publish_version(self, params: Json, context: CallContext) -> Json:
        """PublishVersion."""
        _refuse(params, "PublishTo")
        function = self._function(params)
        self._check_revision(function.latest.revision, params)
        expected = params.get("CodeSha256")
        if expected and expected != function.latest.code_sha256:
            raise _invalid(
                f"CodeSHA256 ({expected}) is different from current CodeSHA256 in $LATEST "
                f"({function.latest.code_sha256}). Please try again with the CodeSHA256 in $LATEST.",
            )
        version = self.registry.publish(function, time.time(), new_uuid(), params.get("Description"))
        self._kept(function)
        return self._configuration(function, version)

    def do_list_versions_by_function(self, params: Json, context: CallContext) -> Json:
        """ListVersionsByFunction."""
        function = self._function(params)
        versions = [function.latest, *function.versions.values()]
        names, token = page([f"{index:09d}" for index in range(len(versions))], params)
        return listed("Versions", [self._configuration(function, versions[int(each)]) for each in names], token)

    def do_create_alias(self, params: Json, context: CallContext) -> Json:
        """CreateAlias."""
        function = self._function(params)
        if params["Name"] in function.aliases:
            arn = self.registry.arn(function.name, params["Name"])
            raise AwsError("ResourceConflictException", f"Alias already exists: {arn}", 409, {"Type": "User"})
        alias = Alias(params["Name"], params["FunctionVersion"], params.get("Description") or "")
        return self._put_alias(function, alias, params)

    def do_update_alias(self, params: Json, context: CallContext) -> Json:
        """UpdateAlias."""
        function = self._function(params)
        old = self._alias(function, params["Name"])
        self._check_revision(old.revision, params)
        alias = replace(old, version=params.get("FunctionVersion") or old.version)
        if params.get("Description") is not None:
            alias.description = params["Description"]
        return self._put_alias(function, alias, params)

    def _put_alias(self, function: Function, alias: Alias, params: Json) -> Json:
        weights = (params.get("RoutingConfig") or {}).get("AdditionalVersionWeights")
        if weights is not None:
            alias.extra_version, alias.extra_weight = next(iter(weights.items()), ("", 0.0))
        for number in filter(None, (alias.version, alias.extra_version)):
            if function.version(number) is None:
                raise self.registry.not_found(FunctionName(function.name, number))
        if alias.extra_version and LATEST in (alias.version, alias.extra_version):
            raise AwsError(
                "InvalidParameterValueException",
                "$LATEST is not supported for an alias pointing to more than 1 version",
            )
        alias.revision = new_uuid()
        function.aliases[alias.name] = alias
        self._kept(function)
        return self._alias_shape(function, alias)

    def do_get_alias(self, params: Json, context: CallContext) -> Json:
        """GetAlias."""
        function = self._function(params)
        return self._alias_shape(function, self._alias(function, params["Name"]))

    def do_list_aliases(self, params: Json, context: CallContext) -> Json:
        """ListAliases."""
        function = self._function(params)
        wanted = params.get("FunctionVersion")
        names = sorted(name for name, alias in function.aliases.items() if wanted in (None, alias.version))
        names, token = page(names, params)
        return listed("Aliases", [self._alias_shape(function, function.aliases[name]) for name in names], token)

    def do_delete_alias(self, params: Json, context: CallContext) -> Json:
        """DeleteAlias; one that is not there is fine."""
        function = self._function(params)
        function.aliases.pop(params["Name"], None)
        self._kept(function)
        return {}

    def _alias(self, function: Function, name: str) -> Alias:
        alias = function.aliases.get(name)
        if alias is None:
            raise AwsError(
                "ResourceNotFoundException",
                f"Cannot find alias arn: {self.registry.arn(function.name, name)}",
                404,
                {"Type": "User"},
            )
        return alias

    def _alias_shape(self, function: Function, alias: Alias) -> Json:
        shape: Json = {
            "AliasArn": self.registry.arn(function.name, alias.name),
            "Name": alias.name,
            "FunctionVersion": alias.version,
            "Description": alias.description,
            "RevisionId": alias.revision,
        }
        if alias.extra_version:
            shape["RoutingConfig"] = {"AdditionalVersionWeights": {alias.extra_version: alias.extra_weight}}
        return shape

    # Shapes

    def _configuration(self, function: Function, version: Version) -> Json:
        spec = version.spec
        published = spec.version if spec.version != LATEST else ""
        shape: Json = {
            "FunctionName": spec.name,
            "FunctionArn": self.registry.arn(spec.name, published),
            "Runtime": spec.runtime,
            "Role": spec.role,
            "Handler": spec.handler,
            "CodeSize": version.code_size,
            "Description": spec.description,
            "Timeout": spec.timeout_s,
            "MemorySize": spec.memory_mb,
            "LastModified": stamp(version.modified),
            "CodeSha256": version.code_sha256,
            "Version": spec.version,
            "TracingConfig": {"Mode": spec.tracing},
            "RevisionId": version.revision,
            "State": "Active",
            "LastUpdateStatus": "Successful",
            "PackageType": "Zip",
            "Architectures": [spec.architecture],
            "EphemeralStorage": {"Size": spec.ephemeral_storage_mb},
            "SnapStart": {"ApplyOn": "None", "OptimizationStatus": "Off"},
            "LoggingConfig": {"LogFormat": spec.log_format, "LogGroup": spec.log_group or f"/aws/lambda/{spec.name}"},
        }
        if spec.environment:
            shape["Environment"] = {"Variables": dict(spec.environment)}
        if spec.kms_key_arn:
            shape["KMSKeyArn"] = spec.kms_key_arn
        if spec.dead_letter_arn:
            shape["DeadLetterConfig"] = {"TargetArn": spec.dead_letter_arn}
        if spec.log_format.upper() == "JSON":
            shape["LoggingConfig"]["ApplicationLogLevel"] = spec.log_level or "INFO"
        return shape


_SETTINGS: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("Handler", "handler", str),
    ("Runtime", "runtime", str),
    ("Role", "role", str),
    ("Description", "description", str),
    ("Timeout", "timeout_s", int),
    ("MemorySize", "memory_mb", int),
    ("Environment", "environment", lambda value: dict(value.get("Variables") or {})),
    ("DeadLetterConfig", "dead_letter_arn", lambda value: value.get("TargetArn") or ""),
    ("TracingConfig", "tracing", lambda value: value.get("Mode") or "PassThrough"),
    ("EphemeralStorage", "ephemeral_storage_mb", lambda value: value["Size"]),
    ("Architectures", "architecture", lambda value: value[0]),
    ("KMSKeyArn", "kms_key_arn", str),
)
_LOGGING = (("LogFormat", "log_format"), ("ApplicationLogLevel", "log_level"), ("LogGroup", "log_group"))


_REFUSED = (
    "VpcConfig", "FileSystemConfigs", "ImageConfig", "SnapStart", "CapacityProviderConfig", "CodeSigningConfigArn",
    "DurableConfig", "PublishTo", "TenancyConfig",
)  # fmt: skip


def _snap_start(params: Json) -> Json:
    wish: Json = params.get("SnapStart") or {}
    return {} if wish.get("ApplyOn") == "None" else wish


def _refuse(params: Json, *names: str) -> None:
    """Raise NotEmulated when one of these members is given and not empty."""
    for name in names:
        given = params.get(name)
        if any(given.values()) if isinstance(given, dict) else given:
            raise NotEmulated(f"the {name} of a function")


def _configured(spec: FunctionSpec, params: Json) -> FunctionSpec:
    """The settings with what a request gives."""
    changes = {field: read(params[name]) for name, field, read in _SETTINGS if params.get(name) is not None}
    logging = params.get("LoggingConfig") or {}
    for name, field in _LOGGING:
        if logging.get(name):
            changes[field] = logging[name]
    _refuse({**params, "SnapStart": _snap_start(params)}, *_REFUSED)
    return replace(spec, **changes)


async def _stream(
    parts: asyncio.Queue[bytes | None], done: asyncio.Future[InvokeResult], wants_log: bool
) -> AsyncIterator[bytes]:
    is_streamed = False
    while (part := await parts.get()) is not None:
        is_streamed = True
        yield response_stream.chunk(part)
    result = await done
    if result.function_error is None and not is_streamed and result.payload:
        yield response_stream.chunk(result.payload)
    error = result.payload if result.function_error is not None else None
    yield response_stream.complete(error, result.log_tail if wants_log else None)


def _invocation_type(text: str) -> InvocationType:
    if not text:
        return "RequestResponse"
    if text not in _TYPES:
        raise AwsError(
            "ValidationException",
            f"1 validation error detected: Value '{text}' at 'invocationType' failed to satisfy constraint: Member "
            "must satisfy enum value set: [Event, RequestResponse, DryRun]",
        )
    return cast(InvocationType, text)


def _client_context(text: str) -> bytes | None:
    """The client context, from base64. Raises AwsError InvalidRequestContentException."""
    if not text:
        return None
    try:
        decoded = base64.b64decode(text, validate=True)
        orjson.loads(decoded)
    except ValueError:
        raise AwsError(
            "InvalidRequestContentException", "Client context must be a valid Base64-encoded JSON object."
        ) from None
    return decoded


def _invalid(message: str) -> AwsError:
    return AwsError("InvalidParameterValueException", message, 400, {"Type": "User"})
