"""Signed URLs and signed cookies: whether a request may pass. Pure.

Sources: CloudFront Developer Guide, "Using signed URLs", "Using signed cookies"; AWS's page on troubleshooting signed
URLs (texts of the refusals).
"""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Mapping
from typing import Any

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from foreshore.cloudfront.cache import cookie_pairs

NAMES = ("Expires", "Policy", "Signature", "Key-Pair-Id")
Json = Any


class Refused(Exception):
    """The request may not pass: 403 with `code` and `message` in XML."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


_DENIED = Refused("AccessDenied", "Access denied")


def unescape(text: str) -> bytes:
    """CloudFront's URL-safe base64 (`-` for `+`, `_` for `=`, `~` for `/`). Raises Refused."""
    try:
        return base64.b64decode(text.translate(str.maketrans("-_~", "+=/")), validate=True)
    except ValueError as error:
        raise _DENIED from error


def strip_query(query: str) -> str:
    """The query without the parameters of a signed URL, which never reach the cache or the origin."""
    return "&".join(pair for pair in query.split("&") if pair and pair.partition("=")[0] not in NAMES)


def parameters(query: str, cookie: str | None) -> dict[str, str]:
    """The signing parameters; those of the URL beat those of cookies."""
    pairs = (pair.partition("=") for pair in query.split("&"))
    found = {name: value for name, _, value in pairs if name in NAMES}
    if found:
        return found
    prefix = "CloudFront-"
    return {n.removeprefix(prefix): v for n, v in cookie_pairs(cookie) if n.removeprefix(prefix) in NAMES and n != v}


def check(url: str, query: str, cookie: str | None, ip: str, now: float, keys: Mapping[str, str]) -> None:
    """Raise Refused unless a key of `keys` (id → PEM) signed a policy that allows `url` (without query) from `ip`."""
    found = parameters(query, cookie)
    identifier = found.get("Key-Pair-Id")
    if not identifier:
        raise Refused("MissingKey", "Missing Key-Pair-Id query parameter or cookie value")
    if identifier not in keys:
        raise Refused("AccessDenied", "Unknown Key")
    rest = strip_query(query)
    whole = f"{url}?{rest}" if rest else url
    if "Policy" in found:
        text = unescape(found["Policy"])
    elif "Expires" in found:
        if not found["Expires"].isdigit():
            raise Refused("MalformedPolicy", "Malformed Policy")
        text = canned_policy(whole, int(found["Expires"]))
    else:
        raise _DENIED
    _verify(keys[identifier], unescape(found.get("Signature", "")), text)
    _allow(text, whole, ip, now)


def canned_policy(url: str, expires: int) -> bytes:
    """The policy that a canned signature signs, without spaces."""
    condition = f'{{"DateLessThan":{{"AWS:EpochTime":{expires}}}}}'
    return f'{{"Statement":[{{"Resource":"{url}","Condition":{condition}}}]}}'.encode()


def _verify(pem: str, signature: bytes, text: bytes) -> None:
    key = load_pem_public_key(pem.encode())
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, text, padding.PKCS1v15(), SHA1())
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, text, ec.ECDSA(SHA1()))
        else:
            raise _DENIED
    except InvalidSignature as error:
        raise _DENIED from error


def _allow(text: bytes, url: str, ip: str, now: float) -> None:
    try:
        (statement,) = orjson.loads(text)["Statement"]
        resource, condition = str(statement.get("Resource", "*")), statement["Condition"]
        until = int(condition["DateLessThan"]["AWS:EpochTime"])
        after = int(condition.get("DateGreaterThan", {}).get("AWS:EpochTime", 0))
        network = ipaddress.ip_network(condition.get("IpAddress", {}).get("AWS:SourceIp", "0.0.0.0/0"), strict=False)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Refused("MalformedPolicy", "Malformed Policy") from error
    anywhere = network.prefixlen == 0
    if not (now < until and after <= now) or not _matches(resource, url):
        raise _DENIED
    if not anywhere and ipaddress.ip_address(ip) not in network:
        raise _DENIED


def _matches(pattern: str, url: str) -> bool:
    """`*` any characters, `?` one; a `http*://` scheme takes both."""
    parts = [".*" if c == "*" else "." if c == "?" else re.escape(c) for c in pattern]
    return re.match("".join(parts) + r"\Z", url) is not None
