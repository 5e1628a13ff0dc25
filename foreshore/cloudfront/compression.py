"""Which responses CloudFront compresses at the edge, and how. Pure.

Gzip is zlib's. Brotli is used when the `brotli` package is there; without it a viewer that takes both gets gzip.

Source: CloudFront Developer Guide, "Serving compressed files".
"""

from __future__ import annotations

import importlib
import importlib.util
import zlib
from typing import Any

from foreshore.cloudfront import limits
from foreshore.cloudfront.behaviors import Behavior
from foreshore.cloudfront.cache import header
from foreshore.http import Headers

STATUSES = frozenset({200, 403, 404})
TYPES = frozenset(
    [
        "application/dash+xml",
        "application/eot",
        "application/font",
        "application/font-sfnt",
        "application/javascript",
        "application/json",
        "application/opentype",
        "application/otf",
        "application/pdf",
        "application/pkcs7-mime",
        "application/protobuf",
        "application/rss+xml",
        "application/truetype",
        "application/ttf",
        "application/vnd.apple.mpegurl",
        "application/vnd.mapbox-vector-tile",
        "application/vnd.ms-fontobject",
        "application/wasm",
        "application/xhtml+xml",
        "application/xml",
        "application/x-font-opentype",
        "application/x-font-truetype",
        "application/x-font-ttf",
        "application/x-httpd-cgi",
        "application/x-javascript",
        "application/x-mpegurl",
        "application/x-opentype",
        "application/x-otf",
        "application/x-perl",
        "application/x-ttf",
        "font/eot",
        "font/opentype",
        "font/otf",
        "font/ttf",
        "image/svg+xml",
        "text/css",
        "text/csv",
        "text/html",
        "text/javascript",
        "text/js",
        "text/plain",
        "text/richtext",
        "text/tab-separated-values",
        "text/xml",
        "text/x-component",
        "text/x-java-source",
        "text/x-script",
        "vnd.apple.mpegurl",
    ]
)
HAS_BROTLI = importlib.util.find_spec("brotli") is not None


def encode(body: bytes, accepted: str) -> tuple[bytes, bytes]:
    """(Content-Encoding, body), brotli first. Empty encoding when nothing in `accepted` can be made."""
    if "br" in accepted and HAS_BROTLI:
        brotli: Any = importlib.import_module("brotli")
        return b"br", bytes(brotli.compress(body, quality=5))
    if "gzip" in accepted:
        compressor = zlib.compressobj(6, zlib.DEFLATED, 31)
        return b"gzip", compressor.compress(body) + compressor.flush()
    return b"", body


def compress(
    behavior: Behavior, status: int, headers: Headers, body: bytes, accepted: str, had_length: bool
) -> tuple[Headers, bytes]:
    """The response as it goes into the cache: compressed when every condition holds, otherwise as it is."""
    kind = (header(headers, b"content-type") or "").partition(";")[0].strip().lower()
    wanted = (
        behavior.compress
        and behavior.cache.caches
        and accepted
        and had_length
        and status in STATUSES
        and limits.COMPRESS_MIN <= len(body) <= limits.COMPRESS_MAX
        and kind in TYPES
        and header(headers, b"content-encoding") is None
    )
    if not wanted:
        return headers, body
    encoding, packed = encode(body, accepted)
    if not encoding:
        return headers, body
    kept = [(k, _weak(v) if k.lower() == b"etag" else v) for k, v in headers if k.lower() != b"content-length"]
    if "accept-encoding" not in (header(headers, b"vary") or "").lower():
        kept.append((b"Vary", b"Accept-Encoding"))
    return [*kept, (b"Content-Encoding", encoding)], packed


def _weak(tag: bytes) -> bytes:
    return tag if tag.startswith(b"W/") else b"W/" + tag
