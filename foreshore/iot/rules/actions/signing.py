"""AWS Signature Version 4 of one request (AWS General Reference, "Signing AWS API requests"). Pure: time is given."""

from __future__ import annotations

import hashlib
import hmac
from typing import NamedTuple
from urllib.parse import parse_qsl, quote


class Credentials(NamedTuple):
    """An access key; `token` is empty without a session."""

    access_key: str
    secret_key: str
    token: str = ""


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def sign(
    credentials: Credentials,
    *,
    method: str,
    host: str,
    target: str,
    headers: list[tuple[str, str]],
    body: bytes,
    service: str,
    region: str,
    stamp: str,
) -> list[tuple[bytes, bytes]]:
    """The headers to send: those given, Host, X-Amz-Date, X-Amz-Content-Sha256, the token and Authorization.

    `stamp` is the time as `YYYYMMDDTHHMMSSZ`, `target` the percent-encoded path with its query.
    """
    digest = hashlib.sha256(body).hexdigest()
    pairs = [*headers, ("Host", host), ("X-Amz-Date", stamp), ("X-Amz-Content-Sha256", digest)]
    if credentials.token:
        pairs.append(("X-Amz-Security-Token", credentials.token))
    ordered = sorted((name.lower(), " ".join(value.split())) for name, value in pairs)
    signed = ";".join(name for name, _ in ordered)
    path, _, query = target.partition("?")
    # Every service but S3 signs the path encoded once more.
    canonical_path = path if service == "s3" else quote(path, safe="/~-_.")
    items = sorted((quote(k, safe="~-_."), quote(v, safe="~-_.")) for k, v in parse_qsl(query, keep_blank_values=True))
    canonical = "\n".join(
        [
            method,
            canonical_path,
            "&".join(f"{k}={v}" for k, v in items),
            *(f"{name}:{value}" for name, value in ordered),
            "",
            signed,
            digest,
        ]
    )
    scope = f"{stamp[:8]}/{region}/{service}/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = f"AWS4{credentials.secret_key}".encode()
    for part in (stamp[:8], region, service, "aws4_request"):
        key = _hmac(key, part)
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    value = (
        f"AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope}, SignedHeaders={signed}, Signature={signature}"
    )
    return [(name.encode(), text.encode()) for name, text in [*pairs, ("Authorization", value)]]
