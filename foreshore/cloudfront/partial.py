"""Conditional and range answers to the viewer, from a whole response. Pure.

Sources: RFC 9110, sections 13 and 14; CloudFront Developer Guide, "How CloudFront processes partial requests".
"""

from __future__ import annotations

import re

from foreshore.cloudfront.cache import header, http_date
from foreshore.http import Headers

_RANGES = re.compile(r"^bytes=\s*(\d*-\d*)(\s*,\s*\d*-\d*)*\s*$")
_CONTENT_RANGE = re.compile(r"^bytes (\d+)-(\d+)/(\d+)$")
MAX_RANGES = 100


def is_not_modified(headers: Headers, request: Headers) -> bool:
    """Whether the viewer's copy is still good (RFC 9110, section 13.2.2: If-None-Match before If-Modified-Since)."""
    wanted = header(request, b"if-none-match")
    if wanted is not None:
        tag = header(headers, b"etag")
        if tag is None:
            return False
        opaque = tag.removeprefix("W/")
        return wanted.strip() == "*" or opaque in [t.strip().removeprefix("W/") for t in wanted.split(",")]
    since, changed = http_date(header(request, b"if-modified-since")), http_date(header(headers, b"last-modified"))
    return since is not None and changed is not None and changed <= since


def _one(first: str, last: str, length: int) -> tuple[int, int] | None:
    if length == 0:
        return None
    if not first:
        return (max(0, length - int(last)), length - 1) if int(last) else None
    begin, end = int(first), min(int(last), length - 1) if last else length - 1
    return (begin, end) if begin <= end else None


def ranges(text: str | None, length: int) -> list[tuple[int, int]] | None:
    """The inclusive ranges of a Range header that can be met.

    None: send the whole (absent, invalid, overlapping or not ascending); []: none can be met (416).
    """
    if not text or len(text) > 4096 or not _RANGES.match(text):
        return None
    found: list[tuple[int, int]] = []
    for part in text.partition("=")[2].split(",")[:MAX_RANGES]:
        first, _, last = part.strip().partition("-")
        if (not first and not last) or (first and last and int(last) < int(first)):
            return None
        one = _one(first, last, length)
        if one is None:
            continue
        if found and one[0] <= found[-1][1]:
            return None
        found.append(one)
    return found


def content_range(headers: Headers) -> tuple[int, int, int] | None:
    """(first, last, whole length) of a 206's Content-Range, or None."""
    match = _CONTENT_RANGE.match(header(headers, b"content-range") or "")
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def if_range_holds(headers: Headers, request: Headers) -> bool:
    """Whether If-Range, when there, names the stored representation (RFC 9110, section 13.1.5)."""
    wanted = header(request, b"if-range")
    if wanted is None:
        return True
    wanted = wanted.strip()
    if wanted.startswith('"'):
        return wanted == header(headers, b"etag")
    return not wanted.startswith("W/") and wanted == header(headers, b"last-modified")


def multipart(body: bytes, parts: list[tuple[int, int]], content_type: str, boundary: str) -> bytes:
    """A multipart/byteranges body (RFC 9110, section 14.6)."""
    pieces = [
        b"--%s\r\nContent-Type: %s\r\nContent-Range: bytes %d-%d/%d\r\n\r\n%s\r\n"
        % (boundary.encode(), content_type.encode("latin-1"), first, last, len(body), body[first : last + 1])
        for first, last in parts
    ]
    return b"".join(pieces) + b"--%s--\r\n" % boundary.encode()
