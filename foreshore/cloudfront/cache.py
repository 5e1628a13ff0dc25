"""The cache: keys, freshness and the store itself. Pure: the time is an argument.

Times are seconds since the epoch. Entries hold what the origin (after origin-response) gave; what is added on the way
out (`X-Cache`, `Age`, response-headers policies) is not in them.

Sources: CloudFront Developer Guide, "Understanding the cache key", "Managing how long content stays in the cache",
"How CloudFront processes HTTP 4xx and 5xx status codes"; RFC 9111, RFC 5861.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

from foreshore.cloudfront.policies import CachePolicy
from foreshore.http import Headers

Key = tuple[str, ...]

ALWAYS_CACHED_ERRORS = frozenset({404, 414, 500, 501, 502, 503, 504})
HEADER_CACHED_ERRORS = frozenset({400, 403, 405, 412, 415})
_DIRECTIVE = re.compile(r'([!#$%&\'*+.^_`|~0-9A-Za-z-]+)(?:\s*=\s*(?:"([^"]*)"|([^,;\s]*)))?')
_REFUSED_CODING = re.compile(r"q\s*=\s*0(\.0*)?\s*$")


def header(headers: Headers, name: bytes) -> str | None:
    """All values of a header joined with a comma, or None. `name` is lower-case."""
    found = [value.decode("latin-1") for key, value in headers if key.lower() == name]
    return ", ".join(found) if found else None


# The key


def accepted_encoding(policy: CachePolicy, accept: str | None) -> str:
    """Accept-Encoding as CloudFront normalises it: `br,gzip`, `gzip`, `br`, or empty when neither counts."""
    if not accept or not (policy.gzip or policy.brotli):
        return ""
    parts = (part.partition(";") for part in accept.lower().split(","))
    offered = {name.strip() for name, _, parameters in parts if not _REFUSED_CODING.search(parameters)}
    chosen = [n for n, on in (("br", policy.brotli), ("gzip", policy.gzip)) if on and n in offered]
    return ",".join(chosen)


def keyed_query(policy: CachePolicy, query: str) -> str:
    """What of the query is in the key: pairs as they came, in the order they came."""
    if not query or policy.queries.behavior == "none":
        return ""
    if policy.queries.behavior == "all":
        return query
    return "&".join(pair for pair in query.split("&") if pair and policy.queries.has(pair.partition("=")[0]))


def cookie_pairs(text: str | None) -> list[tuple[str, str]]:
    """The pairs of a Cookie header."""
    pairs = (part.strip().partition("=") for part in (text or "").split(";") if part.strip())
    return [(name.strip(), value.strip()) for name, _, value in pairs]


def keyed_cookies(policy: CachePolicy, cookie: str | None) -> str:
    """What of the cookies is in the key, sorted by name."""
    if not cookie or policy.cookies.behavior == "none":
        return ""
    chosen = sorted(pair for pair in cookie_pairs(cookie) if policy.cookies.has(pair[0]))
    return "; ".join(f"{name}={value}" for name, value in chosen)


def cache_key(
    policy: CachePolicy, method: str, uri: str, query: str, headers: Headers, host: str, target: str = ""
) -> Key:
    """(method class, path, query, cookies, encoding, origin, header values…). GET and HEAD share an entry.

    `target` is the behaviour's origin: after a rewrite two behaviours may ask different origins for one path.
    """
    names = sorted(policy.headers.names) if policy.headers.behavior == "whitelist" else ()
    values = tuple(f"{n}:{host if n == 'host' else header(headers, n.encode()) or ''}" for n in names)
    return (
        "OPTIONS" if method == "OPTIONS" else "GET",
        uri,
        keyed_query(policy, query),
        keyed_cookies(policy, header(headers, b"cookie")),
        accepted_encoding(policy, header(headers, b"accept-encoding")),
        target,
        *values,
    )


# Freshness


def directives(text: str | None) -> dict[str, str]:
    """Cache-Control's directives, lower-case, first one wins."""
    found: dict[str, str] = {}
    for match in _DIRECTIVE.finditer(text or ""):
        found.setdefault(match[1].lower(), match[2] if match[2] is not None else match[3] or "")
    return found


def _seconds(value: str | None) -> int | None:
    if value is None or not value.isascii() or not value.isdigit():
        return None
    return min(int(value[:12]), 2**31)


def http_date(text: str | None) -> float | None:
    """An HTTP date (RFC 9110, section 5.6.7) in seconds, or None."""
    if not text:
        return None
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None


@dataclass(frozen=True, slots=True)
class Freshness:
    """How long to keep a response: `ttl` seconds, and RFC 5861's two windows after it.

    `revalidate`: it may be kept beyond its TTL, to be revalidated or to stand in for a failing origin.
    """

    ttl: int
    stale_while_revalidate: int = 0
    stale_if_error: int | None = None
    revalidate: bool = False


def freshness(policy: CachePolicy, headers: Headers, now: float) -> Freshness:
    """The TTL of a success. s-maxage over max-age over Expires over the default; within the policy's bounds."""
    if not policy.caches:
        return Freshness(0)
    found = directives(header(headers, b"cache-control"))
    errors = _seconds(found.get("stale-if-error"))
    stale = min(_seconds(found.get("stale-while-revalidate")) or 0, policy.max_ttl)
    on_error = None if errors is None else min(errors, policy.max_ttl)
    vary_all = "*" in (header(headers, b"vary") or "")
    if vary_all or not found.keys().isdisjoint(("no-cache", "no-store", "private")):
        keep = policy.min_ttl > 0 or not (vary_all or "no-store" in found or "private" in found)
        return Freshness(policy.min_ttl, stale, on_error, keep)
    explicit = _declared(found, headers, now)
    if explicit is None:
        return Freshness(max(policy.default_ttl, policy.min_ttl), stale, on_error, True)
    return Freshness(min(max(explicit, policy.min_ttl), policy.max_ttl), stale, on_error, True)


def _declared(found: dict[str, str], headers: Headers, now: float) -> int | None:
    """What the origin itself says, seconds; None when it says nothing."""
    for name in ("s-maxage", "max-age"):
        value = _seconds(found.get(name))
        if value is not None:
            return value
    expires = header(headers, b"expires")
    if expires is None:
        return None
    until = http_date(expires)
    return max(0, round(until - now)) if until is not None else 0


def error_ttl(policy: CachePolicy, status: int, headers: Headers, minimum: int) -> int:
    """How long to keep an error, seconds; `minimum` is ErrorCachingMinTTL."""
    found = directives(header(headers, b"cache-control"))
    declared = _seconds(found.get("s-maxage", found.get("max-age")))
    if status in ALWAYS_CACHED_ERRORS:
        return max(minimum, min(declared or 0, policy.max_ttl))
    if status in HEADER_CACHED_ERRORS and declared is not None:
        return max(minimum, min(declared, policy.max_ttl))
    return 0


def may_store(status: int) -> bool:
    """Whether a status that is not an error is kept."""
    return status in (200, 203, 204, 300, 301, 302, 303, 307, 308)


def may_collapse(policy: CachePolicy) -> bool:
    """Whether concurrent misses may wait for one fetch (not with CachingDisabled, nor when cookies are forwarded)."""
    return policy.caches and policy.cookies.behavior == "none"


# Entries


@dataclass(slots=True)
class Entry:
    """One stored response. `stored` and `fresh_until` in seconds since the epoch.

    `origin_status` is what the origin said before custom errors and functions; `part` is (first, last, whole length)
    of a 206; `kept` whether the store has it.
    """

    status: int
    headers: Headers
    body: bytes
    stored: float
    fresh_until: float
    freshness: Freshness
    generated: bool = False
    origin_status: int = 200
    part: tuple[int, int, int] | None = None
    description: str = ""
    kept: bool = False

    @property
    def size(self) -> int:
        """Bytes it is charged with."""
        return len(self.body) + sum(len(k) + len(v) + 32 for k, v in self.headers) + 512

    def is_fresh(self, now: float) -> bool:
        """Whether it may be served without asking the origin."""
        return now < self.fresh_until

    def serves_while_revalidating(self, now: float) -> bool:
        """Whether stale-while-revalidate still holds."""
        return now < self.fresh_until + self.freshness.stale_while_revalidate

    def serves_on_error(self, now: float) -> bool:
        """Whether it may stand in for an origin that fails. Without stale-if-error CloudFront does so at any age."""
        allowed = self.freshness.stale_if_error
        return self.status < 400 and (allowed is None or now < self.fresh_until + allowed)

    def validators(self) -> Headers:
        """If-None-Match and If-Modified-Since for the origin."""
        found: Headers = []
        if tag := header(self.headers, b"etag"):
            found.append((b"If-None-Match", tag.encode("latin-1")))
        if changed := header(self.headers, b"last-modified"):
            found.append((b"If-Modified-Since", changed.encode("latin-1")))
        return found


@dataclass(slots=True)
class Store:
    """Entries by key, the least recently used dropped first. `limit` in bytes."""

    limit: int
    entries: OrderedDict[Key, Entry] = field(default_factory=OrderedDict)
    size: int = 0

    def get(self, key: Key) -> Entry | None:
        """The entry, now the most recently used."""
        entry = self.entries.get(key)
        if entry is not None:
            self.entries.move_to_end(key)
        return entry

    def put(self, key: Key, entry: Entry) -> None:
        """Store or replace; what no longer fits goes."""
        self.drop(key)
        if entry.size > self.limit:
            return
        self.entries[key] = entry
        entry.kept = True
        self.size += entry.size
        while self.size > self.limit:
            self.drop(next(iter(self.entries)))

    def drop(self, key: Key) -> None:
        """Forget an entry, if it is there."""
        old = self.entries.pop(key, None)
        if old is not None:
            old.kept = False
            self.size -= old.size

    def invalidate(self, paths: Iterable[str]) -> int:
        """Drop what CloudFront's invalidation paths name: a path, or a prefix ending in `*`. Case counts."""
        gone = 0
        for path in paths:
            text = path if path.startswith("/") else "/" + path
            for key in [key for key in self.entries if _is_invalidated(text, key)]:
                self.drop(key)
                gone += 1
        return gone


def _is_invalidated(path: str, key: Key) -> bool:
    uri, query = key[1], key[2]
    whole = f"{uri}?{query}" if query else uri
    if path.endswith("*"):
        return whole.startswith(path[:-1])
    return whole == path if "?" in path else uri == path
