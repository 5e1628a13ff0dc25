"""Artifacts of component versions: read from S3, or kept here for what the cloud side itself makes (`greengrass:`).

An artifact of ours lies at `<folder>/<digest in hex>/<file>`, and its URI is `greengrass:<digest in hex>/<file>`, in
the form that AWS gives the artifacts it keeps. Digests in recipes are base64 of SHA-256 (Component recipe reference).
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote, urlencode, urlsplit

from foreshore.errors import AwsError

OWN = "greengrass:"
URL_S = 3600
_OWN_NAME = re.compile(r"[0-9a-f]{64}/[A-Za-z0-9._-]+")
FetchObject = Callable[[str, str], Awaitable[bytes]]
"""`(bucket, key) -> bytes` from S3. Raises AwsError."""


def digest_of(body: bytes) -> str:
    """An artifact's digest as recipes have it."""
    return base64.b64encode(hashlib.sha256(body).digest()).decode()


class Artifacts:
    """Reads and keeps artifacts. `endpoint` gives the AWS endpoint's URL."""

    def __init__(self, folder: Path, fetch: FetchObject, endpoint: Callable[[], str]) -> None:
        self._folder = folder
        self._fetch = fetch
        self._endpoint = endpoint

    def keep(self, file_name: str, body: bytes) -> str:
        """Keep an artifact; give its URI."""
        name = f"{hashlib.sha256(body).hexdigest()}/{file_name}"
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part")
        partial.write_bytes(body)
        partial.replace(path)
        return OWN + name

    async def read(self, uri: str) -> bytes:
        """An artifact's bytes. Raises AwsError for one that can't be read."""
        if uri.startswith(OWN):
            return self.own(uri.removeprefix(OWN))
        parts = urlsplit(uri)
        if parts.scheme != "s3" or not parts.netloc or len(parts.path) < 2:
            raise AwsError("ValidationException", f"{uri} is not an s3:// URI of an object", 400)
        return await self._fetch(parts.netloc, parts.path.lstrip("/"))

    def own(self, name: str) -> bytes:
        """One that is kept here, by `<digest>/<file>`. Raises AwsError ResourceNotFoundException."""
        path = self._folder / name
        if not _OWN_NAME.fullmatch(name) or not path.is_file():
            raise AwsError("ResourceNotFoundException", f"There is no artifact {name}.", 404)
        return path.read_bytes()

    def url(self, uri: str, region: str, now: float) -> str:
        """Where an HTTP client gets the artifact for an hour from `now` (s). The signature has AWS's form alone."""
        if uri.startswith(OWN):
            return f"{self._endpoint()}/_foreshore/greengrass-artifacts/{quote(uri.removeprefix(OWN))}"
        parts = urlsplit(uri)
        at = datetime.fromtimestamp(now, UTC)
        query = {
            "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
            "X-Amz-Credential": f"foreshore/{at:%Y%m%d}/{region}/s3/aws4_request",
            "X-Amz-Date": f"{at:%Y%m%dT%H%M%SZ}",
            "X-Amz-Expires": URL_S,
            "X-Amz-SignedHeaders": "host",
            "X-Amz-Signature": "0" * 64,
        }
        return f"{self._endpoint()}/{quote(parts.netloc)}{quote(parts.path)}?{urlencode(query)}"
