"""From query parameters to keys, and from items to JSON."""

import importlib.util
import sys
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

PATH = Path(__file__).parents[2] / "cloud_functions" / "api" / "logic.py"
spec = importlib.util.spec_from_file_location("api_logic", PATH)
logic = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = logic
spec.loader.exec_module(logic)


@pytest.mark.parametrize(("text", "limit"), [(None, 50), ("1", 1), ("500", 500)])
def test_limits(text, limit):
    assert logic.limit_of(text) == limit


@pytest.mark.parametrize("text", ["", "0", "501", "-1", "x", "1.5"])
def test_bad_limits(text):
    with pytest.raises(logic.BadQuery, match="limit must be a number from 1 to 500"):
        logic.limit_of(text)


def test_queries():
    assert logic.query_of("window", "d1") == ("pk", "window#d1", {})
    assert logic.query_of("alert", None) == ("kind", "alert", {"IndexName": "ByKind"})


@settings(max_examples=50, derandomize=True)
@given(st.text(), st.text())
def test_a_token_comes_back(device, sort_key):
    key = {"pk": f"window#{device}", "sk": sort_key}
    assert logic.read_token(logic.write_token(key), "pk", key["pk"]) == key
    key["kind"] = "window"
    assert logic.read_token(logic.write_token(key), "kind", "window") == key


@pytest.mark.parametrize("token", ["%%", "e30", "bm90IGpzb24", logic.write_token({"pk": "window#other", "sk": "1"})])
def test_tokens_of_others(token):
    with pytest.raises(logic.BadQuery, match="token is not valid here"):
        logic.read_token(token, "pk", "window#d1")


def test_no_token():
    assert logic.read_token(None, "pk", "x") is None
    assert logic.write_token(None) is None


def test_items_become_plain_json():
    item = {
        "pk": "p",
        "sk": "s",
        "n": Decimal("3"),
        "f": Decimal("1.5"),
        "l": [Decimal("2")],
        "m": {"k": Decimal("0.1")},
    }
    assert logic.page([item], None) == {"items": [{"n": 3, "f": 1.5, "l": [2], "m": {"k": 0.1}}]}
    assert set(logic.page([], {"pk": "p", "sk": "s"})) == {"items", "token"}
