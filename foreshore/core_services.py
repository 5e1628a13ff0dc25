"""What a core's components get from the cloud side through IPC: secrets, credentials."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import orjson

from foreshore.errors import AwsError
from foreshore.http import Client

CREDENTIALS_HOURS = 1


class CoreSecrets:
    """GetSecretValue of Secrets Manager, asked at the AWS endpoint."""

    def __init__(self, endpoint: Callable[[], str], region: str) -> None:
        self._endpoint = endpoint
        self._region = region
        self._client = Client(limit=4)

    async def fetch(self, secret: str, version: str | None, stage: str | None) -> Mapping[str, Any]:
        """Secrets Manager's answer. Raises AwsError."""
        parts = urlsplit(self._endpoint())
        asked = {"SecretId": secret, "VersionId": version, "VersionStage": stage}
        credential = f"foreshore/20200101/{self._region}/secretsmanager/aws4_request"
        headers = [
            (b"X-Amz-Target", b"secretsmanager.GetSecretValue"),
            (b"Content-Type", b"application/x-amz-json-1.1"),
            (b"Authorization", f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders=host, Signature=0".encode()),
        ]
        body = orjson.dumps({name: value for name, value in asked.items() if value})
        try:
            answer = await self._client.fetch("POST", str(parts.hostname), parts.port or 80, "/", headers, body)
        except (OSError, TimeoutError) as error:
            raise AwsError("ServiceUnavailableException", str(error), 503) from error
        assert isinstance(answer.body, bytes)
        found: dict[str, Any] = orjson.loads(answer.body)
        if answer.status >= 300:
            code = str(found.get("__type", "InternalServiceError")).rpartition("#")[2]
            raise AwsError(code, str(found.get("message") or found.get("Message") or code), answer.status)
        return found

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()


async def credentials() -> Mapping[str, str]:
    """The token exchange's answer: the edge takes any credentials, so these are plainly local ones."""
    expires = datetime.now(UTC) + timedelta(hours=CREDENTIALS_HOURS)
    return {
        "AccessKeyId": "foreshore", "SecretAccessKey": "foreshore", "Token": "foreshore",
        "Expiration": expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }  # fmt: skip
