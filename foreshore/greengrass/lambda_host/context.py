"""The context object that a handler gets as its second argument. Pure: the clock is an argument.

Attributes as in Greengrass's Lambda runtime and in the AWS Lambda Developer Guide, "Using the Lambda context object to
retrieve Python function information".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


class Client:
    """What the AWS Mobile SDK tells of a calling app; empty on a device."""

    installation_id = None
    app_title = None
    app_version_name = None
    app_version_code = None
    app_package_name = None


class ClientContext:
    """`custom["subject"]` is the topic of the message being handled."""

    __slots__ = ("client", "custom", "env")

    def __init__(self, custom: Mapping[str, Any]) -> None:
        self.custom = dict(custom)
        self.env: dict[str, Any] = {}
        self.client = Client()


class Identity:
    """Amazon Cognito identity; none on a device."""

    cognito_identity_id = None
    cognito_identity_pool_id = None


class LambdaContext:
    """One invocation's context. `deadline` and `clock` are seconds of the same clock."""

    __slots__ = (
        "_clock", "_deadline", "aws_request_id", "client_context", "function_name", "function_version", "identity",
        "invoked_function_arn", "log_group_name", "log_stream_name", "memory_limit_in_mb",
    )  # fmt: skip

    def __init__(
        self, arn: str, request_id: str, custom: Mapping[str, Any], deadline: float, clock: Callable[[], float]
    ) -> None:
        fields = arn.split(":")
        self.function_name = fields[6] if len(fields) > 6 else arn
        self.function_version = fields[7] if len(fields) > 7 else "$LATEST"
        self.invoked_function_arn = arn
        self.memory_limit_in_mb = "0"
        self.aws_request_id = request_id
        self.log_group_name = f"/aws/greengrass/Lambda/{self.function_name}"
        self.log_stream_name = ""
        self.client_context = ClientContext(custom)
        self.identity = Identity()
        self._deadline = deadline
        self._clock = clock

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the invocation times out; never negative."""
        return max(0, int((self._deadline - self._clock()) * 1000))
