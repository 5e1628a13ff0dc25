"""`foreshore rules` on the command line."""

import asyncio
import json
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from foreshore.cli.rules import command
from foreshore.errors import UserError
from foreshore.http import Server
from foreshore.iot.rules.engine import Engine
from foreshore.seams import Publication

EXAMPLES = Path(__file__).parent / "examples.jsonl"


def test_vectors_end_with_two_counts(tmp_path: Path) -> None:
    good = CliRunner().invoke(command, ["test", "--vectors", str(EXAMPLES)])
    assert good.exit_code == 0
    count = len(EXAMPLES.read_text().splitlines())
    wanted = [f"documented: {count} passed, 0 failed", "inferred: 0 passed, 0 failed"]
    assert good.output.splitlines()[-2:] == wanted
    bad = tmp_path / "bad.jsonl"
    vector = {
        "id": "v1", "kind": "rule", "sql": "SELECT 1 AS a FROM 't'", "topic": "t", "payload": {}, "expected": {"a": 2},
        "inferred": True,
    }  # fmt: skip
    bad.write_text(json.dumps(vector) + "\n" + json.dumps({**vector, "id": "v2", "kind": "nonsense"}) + "\n")
    result = CliRunner().invoke(command, ["test", "--vectors", str(bad)])
    assert result.exit_code == 1
    assert result.output.splitlines() == [
        "v1", '  expected {"a":2}', '  got      {"a":1}', "v2", "  expected ", "  got      unknown kind nonsense",
        "documented: 0 passed, 0 failed", "inferred: 0 passed, 2 failed",
    ]  # fmt: skip


def test_one_statement_shows_each_value_under_it() -> None:
    arguments = ["test", "SELECT v * 2 AS w FROM 'd/+' WHERE v > 30", "-t", "d/1", "-p", '{"v": 31.5}']
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[1].endswith("           ^ 31.5  (Decimal)") and "^~~~~ 63" in lines[2]
    assert lines[-1] == "The rule fires."
    quiet = CliRunner().invoke(command, [*arguments[:-1], '{"v": "x"}'])
    assert quiet.exit_code == 1 and "Undefined is not true" in quiet.output
    elsewhere = CliRunner().invoke(command, ["test", "SELECT * FROM 'd/#'", "-t", "d"])
    assert elsewhere.exit_code == 1 and "does not match" in elsewhere.output


def test_a_missing_file_or_edge_is_the_user_s_to_mend(tmp_path: Path) -> None:
    for arguments in (
        ["test", "--vectors", str(tmp_path / "none")],
        ["explain", "r", "--endpoint", "http://127.0.0.1:1"],
    ):
        result = CliRunner().invoke(command, arguments)
        assert isinstance(result.exception, UserError)


@pytest.mark.parametrize("arguments", [[], ["hot"], ["hot", "--last", "2"], ["hot", "--json"], ["--json"], ["none"]])
def test_explain_reads_a_running_edge(arguments: list[str]) -> None:
    ready, done = threading.Event(), threading.Event()
    ports: list[int] = []

    async def edge() -> None:
        engine = Engine(
            region="us-east-1", account="0", publish=lambda publication: None, invoke=None,
            backend_url=lambda: "http://127.0.0.1:1", span=lambda span: None, log=lambda line: None,
        )  # fmt: skip
        republish = {"republish": {"roleArn": "r", "topic": "out/${topic(2)}"}}
        engine.set_rule("hot", {"sql": "SELECT v FROM 'd/+' WHERE v > 30", "actions": [republish]})
        server = Server(engine.admin)
        ports.append(await server.start("127.0.0.1", 0))
        await engine.start()
        for payload in (b'{"v":3}', b'{"v":31}'):
            engine.on_message(Publication("d/1", payload))
        await engine.idle()
        ready.set()
        await asyncio.to_thread(done.wait)
        await engine.stop()
        await server.stop()

    thread = threading.Thread(target=lambda: asyncio.run(edge()))
    thread.start()
    try:
        assert ready.wait(10)
        result = CliRunner().invoke(command, ["explain", *arguments, "--endpoint", f"http://127.0.0.1:{ports[0]}"])
    finally:
        done.set()
        thread.join()
    if arguments == ["none"]:
        assert isinstance(result.exception, UserError)
        return
    assert result.exit_code == 0, result.exception
    if "--json" in arguments:
        found = json.loads(result.output)
        assert found[0]["fired"] is True if "hot" in arguments else found[0]["name"] == "hot"
    else:
        assert "matched 2, fired 1, failed 0" in result.output
        assert ("ok       republish out/1" in result.output) is ("hot" in arguments)
        assert ("does not fire" in result.output) is ("2" in arguments)
