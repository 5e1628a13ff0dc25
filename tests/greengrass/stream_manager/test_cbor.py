"""CBOR against cbor2, and what is malformed."""

from __future__ import annotations

from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshore.errors import PeerError, ProtocolError
from foreshore.greengrass.stream_manager import cbor

SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary()
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, derandomize=True, deadline=None)
@given(VALUES)
def test_both_ways(value: Any) -> None:
    assert cbor.decode(cbor.encode(value)) == value
    assert cbor2.loads(cbor.encode(value)) == value
    assert cbor.decode(cbor2.dumps(value)) == value


@pytest.mark.parametrize(
    ("data", "value"),
    [
        ("bf61610161629f0203ffff", {"a": 1, "b": [2, 3]}),
        ("9f0102ff", [1, 2]),
        ("5f42010243030405ff", b"\x01\x02\x03\x04\x05"),
        ("7f657374726561646d696e67ff", "streaming"),
        ("c11a514b67b0", 1363896240),
        ("f93c00", 1.0),
        ("fa47c35000", 100000.0),
        ("f7", None),
    ],
)
def test_rfc_8949_appendix_a(data: str, value: Any) -> None:
    assert cbor.decode(bytes.fromhex(data)) == value


@pytest.mark.parametrize(
    "data", ["", "61", "a161", "ff", "1c", "f8ff", "0000", "9f01", "3f", "81" * 70, "a18001", "bf01ff"]
)
def test_malformed(data: str) -> None:
    with pytest.raises(PeerError):
        cbor.decode(bytes.fromhex(data))


@pytest.mark.parametrize("value", [object(), 2**64, {"a": {1}}])
def test_what_cannot_be_written(value: Any) -> None:
    with pytest.raises(ProtocolError):
        cbor.encode(value)
