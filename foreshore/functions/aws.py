"""Calls from this room to other services, through the AWS endpoint that workers use too. Shell.

JSON-protocol calls and the few others that destinations need, without an SDK: importing one costs more than the rest of
the room. Requests carry a credential scope, so that the endpoint knows the service, and no signature.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import orjson

from foreshore.errors import AwsError, NotEmulated
from foreshore.http import Client, Response

Json = Any

# Service: X-Amz-Target prefix, JSON version.
_TARGETS = {
    "sqs": ("AmazonSQS", "1.0"),
    "kinesis": ("Kinesis_20131202", "1.1"),
    "dynamodb": ("DynamoDB_20120810", "1.0"),
    "dynamodbstreams": ("DynamoDBStreams_20120810", "1.0"),
    "events": ("AWSEvents", "1.1"),
}
# DynamoDB's streams are signed under the table service's name.
_SIGNING = {"dynamodbstreams": "dynamodb"}


class AwsServices:
    """The AWS endpoint as a client sees it."""

    def __init__(self, region: str, account: str, environment: Callable[[], dict[str, str]]) -> None:
        self.region = region
        self.account = account
        self._environment = environment
        self._client = Client()

    async def close(self) -> None:
        """Close the pooled connections."""
        await self._client.close()

    async def call(self, service: str, operation: str, body: Json, *, timeout: float = 30.0) -> Json:
        """One JSON-protocol call. Raises AwsError with the service's code, OSError, TimeoutError."""
        prefix, version = _TARGETS[service]
        headers = [
            (b"Content-Type", f"application/x-amz-json-{version}".encode()),
            (b"X-Amz-Target", f"{prefix}.{operation}".encode()),
        ]
        response = await self._send("POST", service, "/", headers, orjson.dumps(body), timeout)
        assert isinstance(response.body, bytes)
        return orjson.loads(response.body) if response.body else {}

    async def publish(self, topic_arn: str, message: str) -> None:
        """SNS Publish."""
        form = urlencode({"Action": "Publish", "Version": "2010-03-31", "TopicArn": topic_arn, "Message": message})
        headers = [(b"Content-Type", b"application/x-www-form-urlencoded; charset=utf-8")]
        await self._send("POST", "sns", "/", headers, form.encode(), 30.0)

    async def send_message(self, queue_arn: str, body: str, attributes: dict[str, str] | None = None) -> None:
        """SQS SendMessage to a queue by its ARN."""
        request: dict[str, Json] = {"QueueUrl": await self.queue_url(queue_arn), "MessageBody": body}
        if attributes:
            request["MessageAttributes"] = {
                name: {"DataType": "Number" if name == "ErrorCode" else "String", "StringValue": value or " "}
                for name, value in attributes.items()
            }
        if queue_arn.endswith(".fifo"):
            request |= {
                "MessageGroupId": "foreshore",
                "MessageDeduplicationId": hashlib.sha256(body.encode()).hexdigest(),
            }
        await self.call("sqs", "SendMessage", request)

    async def queue_url(self, queue_arn: str) -> str:
        """The URL of a queue."""
        parts = queue_arn.split(":")
        answer = await self.call("sqs", "GetQueueUrl", {"QueueName": parts[5], "QueueOwnerAWSAccountId": parts[4]})
        return str(answer["QueueUrl"])

    async def put_event(self, bus_arn: str, source: str, detail_type: str, resources: list[str], detail: Json) -> None:
        """EventBridge PutEvents of one event."""
        entry = {
            "Source": source,
            "DetailType": detail_type,
            "Resources": resources,
            "Detail": orjson.dumps(detail).decode(),
            "EventBusName": bus_arn.rpartition("/")[2],
        }
        await self.call("events", "PutEvents", {"Entries": [entry]})

    async def put_object(self, bucket: str, key: str, body: bytes) -> None:
        """S3 PutObject, by path."""
        await self._send("PUT", "s3", f"/{bucket}/{quote(key)}", [(b"Content-Type", b"application/json")], body, 30.0)

    async def get_object(self, bucket: str, key: str, version: str = "") -> bytes:
        """S3 GetObject, by path; without `version` the newest."""
        query = f"?versionId={quote(version, safe='')}" if version else ""
        response = await self._send("GET", "s3", f"/{bucket}/{quote(key)}{query}", [], b"", 60.0)
        assert isinstance(response.body, bytes)
        return response.body

    async def _send(
        self, method: str, service: str, target: str, headers: list[tuple[bytes, bytes]], body: bytes, timeout: float
    ) -> Response:
        environment = self._environment()
        url = environment.get("AWS_ENDPOINT_URL", "")
        if not url:
            raise NotEmulated(f"{service} from the Lambda room without an AWS endpoint")
        parts = urlsplit(url)
        key = environment.get("AWS_ACCESS_KEY_ID", "foreshore")
        scope = f"{key}/20200101/{self.region}/{_SIGNING.get(service, service)}/aws4_request"
        authorization = f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature={'0' * 64}"
        response = await self._client.fetch(
            method, parts.hostname or "127.0.0.1", parts.port or 80, target,
            [*headers, (b"Authorization", authorization.encode())], body, timeout=timeout,
        )  # fmt: skip
        if response.status >= 300:
            raise _error(response, service)
        return response


def _error(response: Response, service: str) -> AwsError:
    assert isinstance(response.body, bytes)
    text = response.body[:500].decode("utf-8", "replace")
    code = response.header("x-amzn-errortype").partition(":")[0]
    try:
        value = orjson.loads(response.body)
        code = code or str(value.get("__type", "")).rpartition("#")[2]
        text = str(value.get("message") or value.get("Message") or text)
    except (orjson.JSONDecodeError, AttributeError):
        pass
    return AwsError(code or "ServiceException", f"{service}: {text}", response.status)
