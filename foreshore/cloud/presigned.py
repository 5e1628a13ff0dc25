"""Presigned S3 URLs with any credentials. Pure.

The edge takes whatever access key a client has and checks no signature; the backend does check those in a URL's query,
against keys that it knows. What it refuses for an unknown key is signed anew with its own root key.
Source: Amazon S3 API reference, "Authenticating requests: using query parameters (AWS Signature Version 4)".
"""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode, urlsplit

from foreshore.http import Request

ROOT = ("test", "test")
"""MiniStack's root access key and secret."""

EXPIRES_S = 300
_SIGNING = {
    "x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-expires", "x-amz-signedheaders", "x-amz-signature",
    "x-amz-security-token",
}  # fmt: skip


def is_presigned(request: Request) -> bool:
    """Whether the query carries a signature of version 4."""
    return "X-Amz-Signature=" in request.query_string


def signed_anew(request: Request) -> str:
    """The request's target with a signature by the root key over the same headers."""
    from botocore.auth import S3SigV4QueryAuth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    parts = urlsplit(request.target)
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    given = {name.lower(): value for name, value in pairs}
    region = (given.get("x-amz-credential", "").split("/") + [""] * 3)[2] or "us-east-1"
    rest = urlencode([(name, value) for name, value in pairs if name.lower() not in _SIGNING])
    headers = {name: request.header(name) for name in given.get("x-amz-signedheaders", "host").split(";")}
    url = f"http://{request.header('host')}{parts.path}" + (f"?{rest}" if rest else "")
    again = AWSRequest(request.method, url, headers)
    S3SigV4QueryAuth(Credentials(*ROOT), "s3", region, expires=EXPIRES_S).add_auth(again)
    signed = urlsplit(str(again.url))
    return f"{signed.path}?{signed.query}"
