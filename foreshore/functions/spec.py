"""What a function is: its settings, AWS's limits on them, its name and ARN, its environment variables. Pure.

Sources: AWS Lambda Developer Guide, "Lambda quotas" and "Using Lambda environment variables"; AWS Lambda API Reference,
CreateFunction, Invoke; CloudFormation, AWS::Lambda::Function.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from foreshore.errors import AwsError, NotEmulated, UserError

Json = Any

LATEST = "$LATEST"
MAX_SYNC_PAYLOAD = 6 * 1024 * 1024
MAX_ASYNC_PAYLOAD = 1024 * 1024
MAX_INVOKE_ASYNC_PAYLOAD = 256 * 1024
MAX_RESPONSE = 6291556
MAX_STREAMED_RESPONSE = 200 * 1024 * 1024
MAX_ENVIRONMENT = 4096
MAX_TIMEOUT_S = 900
MAX_MEMORY_MB = 10240
MIN_MEMORY_MB = 128
INIT_LIMIT_S = 10.0
LOG_TAIL = 4096
DEFAULT_ROLE = "arn:aws:iam::000000000000:role/foreshore"

_PART = re.compile(
    r"^(?:arn:(?P<partition>[a-z-]+):lambda:(?P<region>[a-z0-9-]+):)?(?:(?P<account>\d{12}):)?(?:function:)?"
    r"(?P<name>[a-zA-Z0-9_-]{1,64})(?::(?P<qualifier>\$LATEST(?:\.PUBLISHED)?|[a-zA-Z0-9_-]{1,128}))?$"
)
_RESERVED = frozenset(
    {
        "_HANDLER",
        "_X_AMZN_TRACE_ID",
        "AWS_DEFAULT_REGION",
        "AWS_REGION",
        "AWS_EXECUTION_ENV",
        "AWS_LAMBDA_FUNCTION_NAME",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
        "AWS_LAMBDA_FUNCTION_VERSION",
        "AWS_LAMBDA_INITIALIZATION_TYPE",
        "AWS_LAMBDA_LOG_GROUP_NAME",
        "AWS_LAMBDA_LOG_STREAM_NAME",
        "AWS_ACCESS_KEY",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_LAMBDA_RUNTIME_API",
        "LAMBDA_TASK_ROOT",
        "LAMBDA_RUNTIME_DIR",
    }
)


class FunctionName(NamedTuple):
    """A function as callers name it. `qualifier` is a version, an alias or "" (AWS Lambda API, FunctionName)."""

    name: str
    qualifier: str = ""
    region: str = ""
    account: str = ""


def parse_name(text: str) -> FunctionName:
    """Read a name, `name:qualifier`, partial ARN or full ARN. Raises AwsError ValidationException."""
    found = _PART.match(text)
    if found is None:
        raise AwsError(
            "ValidationException",
            f"1 validation error detected: Value '{text}' at 'functionName' failed to satisfy constraint: Member must "
            "satisfy regular expression pattern: "
            r"(arn:(aws[a-zA-Z-]*)?:lambda:)?((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:)?(\d{12}:)?"
            r"(function:)?([a-zA-Z0-9-_\.]+)(:(\$LATEST(\.PUBLISHED)?|[a-zA-Z0-9-_]+))?",
        )
    return FunctionName(found["name"], found["qualifier"] or "", found["region"] or "", found["account"] or "")


@dataclass(frozen=True, slots=True)
class FunctionSpec:
    """The settings of one function version.

    `code` is the folder with the user's files; `inline_source` is a template's inline code, which the shell writes into
    `code` as index.py. Times are seconds, sizes MB as AWS counts them. `on_failure` and `on_success` are destination
    ARNs; `retries` and `max_event_age_s` belong to asynchronous invocations.
    """

    name: str
    code: Path
    handler: str = "app.lambda_handler"
    runtime: str = "python3.12"
    timeout_s: int = 3
    memory_mb: int = 128
    environment: Mapping[str, str] = field(default_factory=dict)
    layers: tuple[Path, ...] = ()
    role: str = DEFAULT_ROLE
    description: str = ""
    architecture: str = "x86_64"
    tags: Mapping[str, str] = field(default_factory=dict)
    reserved_concurrency: int | None = None
    ephemeral_storage_mb: int = 512
    log_format: str = "Text"
    log_level: str = ""
    log_group: str = ""
    tracing: str = "PassThrough"
    dead_letter_arn: str = ""
    kms_key_arn: str = ""
    on_success: str = ""
    on_failure: str = ""
    retries: int = 2
    max_event_age_s: int = 21600
    inline_source: str | None = None
    version: str = LATEST
    package: bytes | None = None

    @classmethod
    def from_cloudformation(cls, logical_id: str, properties: Mapping[str, Json], project_folder: Path) -> FunctionSpec:
        """Read the resolved properties of an AWS::Lambda::Function.

        `Code` is a folder relative to `project_folder`, or `{"ZipFile": source}`. Raises UserError naming the property.
        """
        where = f"resource {logical_id}"
        logging = properties.get("LoggingConfig") or {}
        code, inline = _code(properties.get("Code"), project_folder, where)
        spec = cls(
            name=str(properties.get("FunctionName") or logical_id),
            code=code,
            inline_source=inline,
            handler=str(properties.get("Handler", "")),
            runtime=str(properties.get("Runtime", "")),
            timeout_s=int(properties.get("Timeout", 3)),
            memory_mb=int(properties.get("MemorySize", 128)),
            environment=_variables((properties.get("Environment") or {}).get("Variables") or {}),
            layers=tuple(_layer(item, project_folder, where) for item in properties.get("Layers") or ()),
            role=str(properties.get("Role") or DEFAULT_ROLE),
            description=str(properties.get("Description") or ""),
            architecture=str((properties.get("Architectures") or ["x86_64"])[0]),
            tags=_tags(properties.get("Tags")),
            reserved_concurrency=_optional_int(properties.get("ReservedConcurrentExecutions")),
            ephemeral_storage_mb=int((properties.get("EphemeralStorage") or {}).get("Size", 512)),
            log_format=str(logging.get("LogFormat", "Text")),
            log_level=str(logging.get("ApplicationLogLevel", "")),
            log_group=str(logging.get("LogGroup", "")),
            tracing=str((properties.get("TracingConfig") or {}).get("Mode", "PassThrough")),
            kms_key_arn=str(properties.get("KmsKeyArn") or ""),
            dead_letter_arn=str((properties.get("DeadLetterConfig") or {}).get("TargetArn", "")),
        )
        if properties.get("PackageType") == "Image":
            raise UserError(
                "container images are not emulated", code="not-emulated", where=where, mend="use PackageType: Zip"
            )
        try:
            spec.check()
        except AwsError as error:
            raise UserError(error.message, code="function", where=where) from error
        return spec

    def check(self) -> None:
        """Check AWS's limits. Raises AwsError as CreateFunction does, NotEmulated for a runtime we can't run."""
        if not re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", self.name):
            raise _invalid(self.name, "functionName", "Member must satisfy regular expression pattern: [a-zA-Z0-9-_]+")
        if not 1 <= self.timeout_s <= MAX_TIMEOUT_S:
            raise _invalid(self.timeout_s, "timeout", f"Member must have value less than or equal to {MAX_TIMEOUT_S}")
        if self.memory_mb < MIN_MEMORY_MB:
            raise _invalid(
                self.memory_mb, "memorySize", f"Member must have value greater than or equal to {MIN_MEMORY_MB}"
            )
        if self.memory_mb > MAX_MEMORY_MB:
            raise _invalid(
                self.memory_mb, "memorySize", f"Member must have value less than or equal to {MAX_MEMORY_MB}"
            )
        self._check_environment()
        if not self.runtime.startswith(("python3.", "provided")):
            raise NotEmulated(
                f"the runtime {self.runtime or 'of a function without one'}", "Python and provided.* run."
            )
        if not self.handler:
            raise AwsError(
                "InvalidParameterValueException",
                "Runtime and Handler are mandatory parameters for functions created with deployment packages.",
            )

    def _check_environment(self) -> None:
        reserved = sorted(_RESERVED & set(self.environment))
        if reserved:
            raise AwsError(
                "InvalidParameterValueException",
                "Lambda was unable to configure your environment variables because the environment variables you have "
                f"provided contains reserved keys that are currently not supported for modification. Reserved keys "
                f"used in this request: {', '.join(reserved)}",
            )
        size = sum(len(key.encode()) + len(value.encode()) for key, value in self.environment.items())
        if size > MAX_ENVIRONMENT:
            raise AwsError(
                "InvalidParameterValueException",
                "Lambda was unable to configure your environment variables because the environment variables you have "
                f"provided exceeded the 4KB limit. String measured: {size}",
            )

    def as_version(self, version: str) -> FunctionSpec:
        """The same settings under a published version's name."""
        return replace(self, version=version)

    def variables(
        self,
        *,
        region: str,
        log_stream: str,
        runtime_api: str,
        outer: Mapping[str, str],
        path: str,
        initialization: str,
    ) -> dict[str, str]:
        """All environment variables of a worker. `outer` points SDKs at this edge; the user's own come last."""
        values = {
            "AWS_ACCESS_KEY_ID": "foreshore",
            "AWS_SECRET_ACCESS_KEY": "foreshore",
            "AWS_SESSION_TOKEN": "foreshore",
            "AWS_XRAY_CONTEXT_MISSING": "LOG_ERROR",
            "LANG": "en_US.UTF-8",
            "PATH": path,
            "TZ": ":UTC",
            **outer,
            **self.environment,
        }
        values |= {
            "AWS_DEFAULT_REGION": region,
            "AWS_EXECUTION_ENV": f"AWS_Lambda_{self.runtime}",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(self.memory_mb),
            "AWS_LAMBDA_FUNCTION_NAME": self.name,
            "AWS_LAMBDA_FUNCTION_VERSION": self.version,
            "AWS_LAMBDA_INITIALIZATION_TYPE": initialization,
            "AWS_LAMBDA_LOG_GROUP_NAME": self.log_group or f"/aws/lambda/{self.name}",
            "AWS_LAMBDA_LOG_STREAM_NAME": log_stream,
            "AWS_LAMBDA_RUNTIME_API": runtime_api,
            "AWS_REGION": region,
            "LAMBDA_RUNTIME_DIR": "/var/runtime",
            "LAMBDA_TASK_ROOT": str(self.code),
            "_HANDLER": self.handler,
        }
        if self.runtime.startswith("python"):
            values.setdefault("PYTHONPATH", "/var/runtime")
        if self.log_format.upper() == "JSON":
            values["AWS_LAMBDA_LOG_FORMAT"] = "JSON"
        if self.log_level:
            values["AWS_LAMBDA_LOG_LEVEL"] = self.log_level
        return values

    def import_path(self) -> list[str]:
        """What stands on a Python worker's import path behind the code folder: the layers', last first."""
        minor = self.runtime.removeprefix("python")
        folders = []
        for layer in reversed(self.layers):
            folders += [str(layer / "python"), str(layer / "python" / "lib" / f"python{minor}" / "site-packages")]
        return folders


def _invalid(value: object, member: str, constraint: str) -> AwsError:
    return AwsError(
        "ValidationException",
        f"1 validation error detected: Value '{value}' at '{member}' failed to satisfy constraint: {constraint}",
    )


def _code(code: Json, folder: Path, where: str) -> tuple[Path, str | None]:
    if isinstance(code, str):
        return (folder / code).resolve(), None
    if isinstance(code, Mapping) and "ZipFile" in code:
        return Path(), str(code["ZipFile"])
    mend = "point CodeUri at the folder with the code"
    raise UserError("Code must be a local folder or inline ZipFile", code="not-emulated", where=where, mend=mend)


def _layer(layer: Json, folder: Path, where: str) -> Path:
    if isinstance(layer, str) and not layer.startswith("arn:"):
        return (folder / layer).resolve()
    raise UserError(
        f"layer {layer} is not a local folder", code="not-emulated", where=where, mend="give a local folder"
    )


def _variables(variables: Mapping[str, Json]) -> dict[str, str]:
    return {str(key): _text(value) for key, value in variables.items()}


def _text(value: Json) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _tags(tags: Json) -> dict[str, str]:
    if isinstance(tags, Mapping):
        return {str(key): str(value) for key, value in tags.items()}
    return {str(tag["Key"]): str(tag["Value"]) for tag in tags or ()}


def _optional_int(value: Json) -> int | None:
    return None if value is None else int(value)
