"""The objects of S3 that jobs name: read from the backend, or handed to devices as presigned URLs.

Source: Amazon S3 API reference, "Authenticating requests: using query parameters (AWS Signature Version 4)".
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import Protocol
from urllib.parse import quote, urlsplit

from foreshore.errors import AwsError
from foreshore.iot.job_documents import MAX_DOCUMENT, S3Object
from foreshore.iot.rules.actions.aws import Aws
from foreshore.iot.rules.actions.failures import ActionFailed
from foreshore.iot.rules.actions.signing import Credentials


class Files(Protocol):
    """What jobs ask of S3."""

    async def read(self, target: S3Object, /, limit: int | None = MAX_DOCUMENT) -> bytes: ...

    async def write(self, target: S3Object, body: bytes, /) -> None: ...

    def presign(self, method: str, target: S3Object, seconds: int, /) -> str: ...


class BackendFiles:
    """Files of the backend, through the rules' client of it."""

    def __init__(self, aws: Aws) -> None:
        self._aws = aws

    async def read(self, target: S3Object, /, limit: int | None = MAX_DOCUMENT) -> bytes:
        """An object's bytes. Raises AwsError InvalidRequestException when it can't be had or exceeds the limit."""
        version = f"?versionId={quote(target.version)}" if target.version else ""
        try:
            response = await self._aws.send("s3", "GET", f"{_path(target)}{version}")
        except ActionFailed as error:
            text = f"s3://{target.bucket}/{target.key} can't be read: {error}"
            raise AwsError("InvalidRequestException", text, 400) from error
        body = response.body if isinstance(response.body, bytes) else b""
        if limit is not None and len(body) > limit:
            raise AwsError("InvalidRequestException", f"s3://{target.bucket}/{target.key} exceeds {limit} bytes", 400)
        return body

    async def write(self, target: S3Object, body: bytes, /) -> None:
        """Put an object. Raises AwsError InvalidRequestException when the backend refuses it."""
        try:
            await self._aws.send("s3", "PUT", _path(target), body=body)
        except ActionFailed as error:
            text = f"s3://{target.bucket}/{target.key} can't be written: {error}"
            raise AwsError("InvalidRequestException", text, 400) from error

    def presign(self, method: str, target: S3Object, seconds: int, /) -> str:
        """A URL of the backend that allows one method on an object."""
        return presigned_url(
            self._aws.credentials(), method=method, base=self._aws.backend_url(), target=target, seconds=seconds,
            region=self._aws.region, stamp=self._aws.stamp(),
        )  # fmt: skip


def _path(target: S3Object) -> str:
    return f"/{target.bucket}/{quote(target.key, safe='/~-_.')}"


def presigned_url(
    credentials: Credentials, *, method: str, base: str, target: S3Object, seconds: int, region: str, stamp: str
) -> str:
    """A presigned URL by path under `base`; `stamp` is the time as `YYYYMMDDTHHMMSSZ`."""
    split = urlsplit(base)
    scope = f"{stamp[:8]}/{region}/s3/aws4_request"
    pairs = [
        ("X-Amz-Algorithm", "AWS4-HMAC-SHA256"),
        ("X-Amz-Credential", f"{credentials.access_key}/{scope}"),
        ("X-Amz-Date", stamp),
        ("X-Amz-Expires", str(seconds)),
        ("X-Amz-SignedHeaders", "host"),
    ]
    if credentials.token:
        pairs.append(("X-Amz-Security-Token", credentials.token))
    if target.version:
        pairs.append(("versionId", target.version))
    query = "&".join(f"{quote(name, safe='~-_.')}={quote(value, safe='~-_.')}" for name, value in sorted(pairs))
    path = split.path.rstrip("/") + _path(target)
    canonical = f"{method}\n{path}\n{query}\nhost:{split.netloc}\n\nhost\nUNSIGNED-PAYLOAD"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    step: Callable[[bytes, str], bytes] = lambda key, text: hmac.new(key, text.encode(), hashlib.sha256).digest()  # noqa: E731
    key = f"AWS4{credentials.secret_key}".encode()
    for part in (stamp[:8], region, "s3", "aws4_request"):
        key = step(key, part)
    signature = step(key, f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}").hex()
    return f"{split.scheme}://{split.netloc}{path}?{query}&X-Amz-Signature={signature}"
