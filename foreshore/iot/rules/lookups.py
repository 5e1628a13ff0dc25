"""The services behind the external functions, for a rule that is evaluated in a thread. Shell.

Each call runs as a coroutine on the event loop while the thread waits. Failures become ExternalFailed, which ends the
rule unless get_or_default catches it. Secrets and protobuf descriptors are cached for 15 minutes, as AWS does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol
from urllib.parse import quote

from foreshore.errors import AwsError, NotEmulated
from foreshore.iot.rules.actions.aws import Aws
from foreshore.iot.rules.actions.dynamodb import attribute, from_attribute
from foreshore.iot.rules.actions.failures import ActionFailed
from foreshore.iot.rules.message import ExternalFailed
from foreshore.iot.rules.protobuf import MAX_DESCRIPTOR
from foreshore.iot.rules.values import NotJson, Value, read_json, write_json
from foreshore.seams import Invoke

LAMBDA_TIMEOUT_S = 2.0
TIMEOUT_S = 5.0
CACHE_S = 15 * 60.0
MAX_ITEM = 8 * 1024


class Things(Protocol):
    """What IoT Core itself knows. Both raise AwsError; `shadow` gives the shadow's document as JSON."""

    def shadow(self, thing: str, name: str | None) -> bytes: ...
    def registry(self, operation: str, thing: str) -> dict[str, Any]: ...


class Lookups:
    """Implements `message.Services`. `traceparent` goes with the Lambda invocations."""

    def __init__(self, loop: asyncio.AbstractEventLoop, aws: Aws, invoke: Invoke | None, things: Things | None) -> None:
        self.loop = loop
        self.aws = aws
        self.invoke = invoke
        self.things = things
        self._cache: dict[tuple[str, ...], tuple[float, Any]] = {}

    def _wait(self, name: str, work: Callable[[], Awaitable[Any]], timeout: float = TIMEOUT_S) -> Any:
        async def limited() -> Any:
            async with asyncio.timeout(timeout):
                return await work()

        try:
            return asyncio.run_coroutine_threadsafe(limited(), self.loop).result()
        except TimeoutError:
            raise ExternalFailed(f"{name}: no answer within {timeout:g} s") from None
        except (ActionFailed, AwsError, NotJson, KeyError, ValueError) as error:
            raise ExternalFailed(f"{name}: {error}") from error

    def _cached(self, key: tuple[str, ...], name: str, work: Callable[[], Awaitable[Any]]) -> Any:
        found = self._cache.get(key)
        if found is not None and time.monotonic() - found[0] < CACHE_S:
            return found[1]
        value = self._wait(name, work)
        self._cache[key] = (time.monotonic(), value)
        return value

    def aws_lambda(self, arn: str, argument: Value) -> Value:
        """Invoke a function and wait for its JSON."""
        payload = write_json(argument)

        async def work() -> Value:
            if self.invoke is None:
                target = f"/2015-03-31/functions/{quote(arn, safe='')}/invocations"
                response = await self.aws.send("lambda", "POST", target, body=payload)
                error, body = response.header("x-amz-function-error"), response.body
            else:
                result = await self.invoke(arn, payload)
                error, body = result.function_error or "", result.payload
            if error or not isinstance(body, bytes):
                raise ExternalFailed(f"aws_lambda: the function failed ({error})")
            return read_json(body) if body else None

        return self._wait("aws_lambda", work, LAMBDA_TIMEOUT_S)

    def get_dynamodb(self, table: str, keys: list[tuple[str, Value]], role: str) -> Value:
        """GetItem; an item that is not there is a failure."""

        async def work() -> Value:
            body = {"TableName": table, "Key": {name: attribute(value) for name, value in keys}}
            found = await self.aws.json("dynamodb", "DynamoDB_20120810.GetItem", body, "1.0")
            if "Item" not in found:
                raise ExternalFailed("get_dynamodb: there is no such item")
            item = {name: from_attribute(value) for name, value in found["Item"].items()}
            if len(write_json(item)) > MAX_ITEM:
                raise ExternalFailed(f"get_dynamodb: the item is larger than {MAX_ITEM} bytes")
            return item

        return self._wait("get_dynamodb", work)

    def get_secret(self, secret: str, kind: str, key: str | None, role: str) -> Value:
        """The secret's text or binary (base64), or one key of its JSON."""

        async def work() -> dict[str, Any]:
            return await self.aws.json("secretsmanager", "secretsmanager.GetSecretValue", {"SecretId": secret})

        found = self._cached(("secret", secret), "get_secret", work)
        value = found.get(kind)
        if value is None:
            raise ExternalFailed(f"get_secret: {secret} has no {kind}")
        if key is None:
            return value
        try:
            document = read_json(str(value).encode())
        except NotJson:
            raise ExternalFailed(f"get_secret: {secret} is no JSON") from None
        if type(document) is not dict or key not in document:
            raise ExternalFailed(f"get_secret: {secret} has no key {key}")
        return document[key]

    def _things(self) -> Things:
        if self.things is None:
            raise NotEmulated("get_thing_shadow and get_registry_data without IoT Core", "Run `foreshore dev`.")
        return self.things

    def get_thing_shadow(self, thing: str, name: str | None, role: str) -> Value:
        """The shadow's document."""

        async def work() -> Value:
            return read_json(self._things().shadow(thing, name))

        return self._wait("get_thing_shadow", work)

    def get_registry_data(self, operation: str, thing: str, role: str) -> Value:
        """What DescribeThing or ListThingGroupsForThing answers."""

        async def work() -> Value:
            found = self._things().registry(operation, thing)
            return read_json(write_json(found))

        return self._wait("get_registry_data", work)

    def proto_descriptor(self, bucket: str, key: str) -> bytes:
        """A FileDescriptorSet from S3."""

        async def work() -> bytes:
            target = f"/{quote(bucket)}/{quote(key)}"
            response = await self.aws.send("s3", "GET", target)
            body = response.body
            if not isinstance(body, bytes) or len(body) > MAX_DESCRIPTOR:
                raise ExternalFailed(f"decode: s3://{bucket}/{key} is larger than {MAX_DESCRIPTOR} bytes")
            return body

        found: bytes = self._cached(("proto", bucket, key), "decode", work)
        return found
