"""Return values as AWS's own client writes them, compared with it value by value."""

import os
from decimal import Decimal
from unittest import mock

import pytest
from awslambdaric.lambda_runtime_marshaller import to_json
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshore.functions.worker.json_text import encode, is_plain

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.decimals(allow_nan=False, allow_infinity=False)
)
KEYS = st.one_of(st.text(), st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=4), st.tuples(inner, inner)
    ),
    max_leaves=12,
)


@pytest.mark.parametrize("runtime", ["AWS_Lambda_python3.11", "AWS_Lambda_python3.13"])
@settings(max_examples=150, derandomize=True, deadline=None)
@given(VALUES)
def test_every_value_is_equal(runtime, value):
    with mock.patch.dict(os.environ, {"AWS_EXECUTION_ENV": runtime}):
        assert encode(value, runtime) == to_json(value)


@pytest.mark.parametrize("value", [{1}, object(), b"\xff", {"a": {2}}, {(1, 2): 3}])
def test_both_refuse(value):
    with pytest.raises((TypeError, ValueError)) as theirs:
        to_json(value)
    with pytest.raises(type(theirs.value)) as ours:
        encode(value, "")
    assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize(
    ("value", "plain"),
    [({"a": [1, "b", None]}, True), ({1: 2}, False), ((1,), False), (Decimal(1), False), ([{"a": ()}], False)],
)
def test_plain_values(value, plain):
    assert is_plain(value) is plain
