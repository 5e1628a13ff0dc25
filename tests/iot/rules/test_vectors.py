"""AWS's documented examples, all of them."""

from pathlib import Path

import pytest

from foreshore.iot.rules.vectors import run

SHARED = Path(__file__).parents[4] / "shared" / "vectors" / "iot_sql.jsonl"
OWN = Path(__file__).parent / "examples.jsonl"


@pytest.mark.parametrize("path", [OWN, SHARED], ids=["own", "shared"])
def test_every_example_passes(path: Path) -> None:
    if not path.exists():
        pytest.skip("the larger set of examples is not beside this checkout")
    outcomes = list(run(path.read_bytes().splitlines()))
    assert len(outcomes) > 20
    assert [outcome for outcome in outcomes if not outcome.passed] == []
