"""Keys, freshness, ranges and signatures: tables."""

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshore.cloudfront import cache, partial, signing, triggers
from foreshore.cloudfront.behaviors import path_matcher
from foreshore.cloudfront.policies import MANAGED_CACHE, CachePolicy, Selection


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("/api/*", "/api/a/b", True),
        ("api/*", "/api/a", True),
        ("/api/*", "/API/a", False),
        ("*.jpg", "/a/b.jpg", True),
        ("/a?.js", "/ab.js", True),
        ("/a?.js", "/a.js", False),
        ("*", "/", True),
    ],
)
def test_path_patterns(pattern: str, path: str, expected: bool) -> None:
    assert bool(path_matcher(pattern).match(path)) is expected


@pytest.mark.parametrize(
    ("bounds", "control", "ttl"),
    [
        ((0, 100, 1000), "", 100),
        ((0, 100, 1000), "max-age=5", 5),
        ((10, 100, 1000), "max-age=5", 10),
        ((0, 100, 1000), "max-age=5000", 1000),
        ((0, 100, 1000), "max-age=5, s-maxage=7", 7),
        ((0, 100, 1000), "no-store", 0),
        ((9, 100, 1000), "no-cache", 9),
        ((0, 0, 0), "max-age=5", 0),
    ],
)
def test_the_ttl_of_a_success(bounds: tuple[int, int, int], control: str, ttl: int) -> None:
    headers = [(b"Cache-Control", control.encode())] if control else []
    assert cache.freshness(CachePolicy("p", *bounds), headers, 0.0).ttl == ttl


@pytest.mark.parametrize(
    ("status", "control", "ttl"),
    [(404, "", 10), (404, "max-age=60", 60), (403, "", 0), (403, "max-age=60", 60), (416, "max-age=60", 0)],
)
def test_the_ttl_of_an_error(status: int, control: str, ttl: int) -> None:
    headers = [(b"Cache-Control", control.encode())] if control else []
    assert cache.error_ttl(CachePolicy("p"), status, headers, 10) == ttl


@pytest.mark.parametrize(
    ("accept", "expected"),
    [(None, ""), ("gzip, br", "br,gzip"), ("gzip;q=0, br", "br"), ("deflate", ""), ("GZIP", "gzip")],
)
def test_accept_encoding_is_normalised(accept: str | None, expected: str) -> None:
    assert cache.accepted_encoding(MANAGED_CACHE["658327ea-f89d-4fab-a63d-7e88639e58f6"], accept) == expected


def test_the_key_takes_what_the_policy_names() -> None:
    policy = CachePolicy(
        "p", headers=Selection("whitelist", frozenset({"x-a"})), cookies=Selection("whitelist", frozenset({"c"})),
        queries=Selection("allExcept", frozenset({"utm"})),
    )  # fmt: skip
    headers = [(b"X-A", b"1"), (b"X-B", b"2"), (b"Cookie", b"d=1; c=2")]
    key = cache.cache_key(policy, "HEAD", "/p", "b=1&utm=x&a=2", headers, "host", "origin")
    assert key == ("GET", "/p", "b=1&a=2", "c=2", "", "origin", "x-a:1")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bytes=0-1", [(0, 1)]),
        ("bytes=-3", [(7, 9)]),
        ("bytes=8-", [(8, 9)]),
        ("bytes=50-", []),
        ("bytes=5-2", None),
        ("bytes=0-1,4-5", [(0, 1), (4, 5)]),
        ("bytes=4-5,0-1", None),
        ("bytes=0-5,3-6", None),
        ("lines=1-2", None),
        (None, None),
    ],
)
def test_ranges(text: str | None, expected: object) -> None:
    assert partial.ranges(text, 10) == expected


def test_signed_urls() -> None:
    key = rsa.generate_private_key(65537, 2048)
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    url = "https://d1.cloudfront.net/a"

    def signed(policy: bytes) -> str:
        raw = base64.b64encode(key.sign(policy, padding.PKCS1v15(), SHA1())).decode()
        return raw.translate(str.maketrans("+=/", "-_~"))

    query = f"x=1&Expires=100&Signature={signed(signing.canned_policy(url + '?x=1', 100))}&Key-Pair-Id=K1"
    signing.check(url, query, None, "1.2.3.4", 99.0, {"K1": pem})
    assert signing.strip_query(query) == "x=1"
    for changed, now, keys, message in (
        (query, 100.0, {"K1": pem}, "Access denied"),
        (query.replace("x=1", "x=2"), 99.0, {"K1": pem}, "Access denied"),
        (query, 99.0, {}, "Unknown Key"),
        ("", 99.0, {"K1": pem}, "Missing Key-Pair-Id query parameter or cookie value"),
    ):
        with pytest.raises(signing.Refused, match=message):
            signing.check(url, changed, None, "1.2.3.4", now, keys)


def _request() -> triggers.EdgeRequest:
    headers = [(b"Host", b"d1.cloudfront.net"), (b"X-Cache", b"hidden"), (b"User-Agent", b"a")]
    return triggers.EdgeRequest("GET", "/a", "", headers, "1.2.3.4")


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (b"[]", "must be an object type"),
        (b'{"uri": "a", "headers": {"host": [{"value": "d1.cloudfront.net"}]}}', "URI"),
        (b'{"querystring": "a b", "headers": {"host": [{"value": "d1.cloudfront.net"}]}}', "query"),
        (b'{"headers": {"x-cache": [{"value": "x"}]}}', "not allowed"),
        (b'{"headers": {"x": [{"value": 1}]}}', "not a string"),
        (b'{"headers": {"x": [{"value": "a\\r\\nb"}]}}', "invalid header"),
        (b'{"headers": {"x": {"value": "a"}}}', "not an array"),
        (b'{"status": "204", "body": "x"}', "204"),
        (b'{"status": true}', "status"),
        (b'{"status": 200, "body": "x", "bodyEncoding": "base64"}', "base64"),
    ],
)
def test_results_that_fail_validation(result: bytes, words: str) -> None:
    with pytest.raises(triggers.EdgeFailure) as failure:
        triggers.read_request_result(triggers.VIEWER_REQUEST, _request(), result)
    assert failure.value.status == 502
    assert words in failure.value.text


def test_habits_of_functions_that_are_taken() -> None:
    made = triggers.read_request_result(
        triggers.VIEWER_REQUEST, _request(),
        b'{"status": 302, "headers": {"location": [{"key": "Other", "value": "/x"}], "content-length": [{"value": "9"}]}}',  # noqa: E501
    )  # fmt: skip
    assert isinstance(made, triggers.EdgeResponse)
    assert (made.status, made.description, made.headers) == (302, "Found", [(b"Location", b"/x")])
    kept = triggers.read_request_result(
        triggers.VIEWER_REQUEST, _request(), b'{"headers": {"host": [{"value": "d1.cloudfront.net"}]}}'
    )
    assert isinstance(kept, triggers.EdgeRequest)
    assert kept.headers == [(b"X-Cache", b"hidden"), (b"Host", b"d1.cloudfront.net")]


@settings(max_examples=150, derandomize=True)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=8),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
                        st.sampled_from(["status", "headers", "body", "uri", "querystring", "origin", "x-a", "value"]),
                        inner, max_size=4), max_leaves=8))  # fmt: skip
def test_any_result_is_taken_or_refused_never_a_crash(value: object) -> None:
    import json

    for stage in (triggers.VIEWER_REQUEST, triggers.ORIGIN_REQUEST):
        try:
            triggers.read_request_result(stage, _request(), json.dumps(value).encode(), include_body=True)
        except triggers.EdgeFailure as failure:
            assert failure.status == 502


@settings(max_examples=150, derandomize=True)
@given(st.text(max_size=30), st.integers(0, 20))
def test_any_range_header_gives_ranges_within_the_body(text: str, length: int) -> None:
    for candidate in (text, "bytes=" + text):
        for first, last in partial.ranges(candidate, length) or []:
            assert 0 <= first <= last < length
