"""`foreshore invoke` against a running endpoint."""

import json

import pytest
from click.testing import CliRunner

from foreshore.cli.invoke import command
from foreshore.errors import AwsError, UserError
from foreshore.functions.spec import FunctionSpec

SOURCE = """
def handler(event, context):
    print("seen")
    if event.get("fail"):
        raise ValueError("no")
    return {"got": event, "client": context.client_context and context.client_context.custom}
"""


@pytest.fixture
def run(edge, tmp_path, monkeypatch):
    code = tmp_path / "code"
    code.mkdir()
    (code / "app.py").write_text(SOURCE)

    async def create():
        edge.functions.create(FunctionSpec("stack-Hello-1A2B", code, "app.handler"))

    edge.run(create())
    file = tmp_path / "endpoints.json"
    file.write_text(json.dumps({"aws": f"http://127.0.0.1:{edge.port}"}))
    monkeypatch.setenv("FORESHORE_ENDPOINTS", str(file))

    def run(*arguments, stdin=""):
        return CliRunner().invoke(command, arguments, obj={"project": "."}, input=stdin, standalone_mode=False)

    return run


@pytest.mark.parametrize("name", ["Hello", "stack-Hello-1A2B", "stack-Hello-1A2B:$LATEST"])
def test_a_result_and_its_log(run, name):
    answer = run(name, '{"a": 1}')
    assert json.loads(answer.stdout) == {"got": {"a": 1}, "client": None}
    assert "START RequestId" in answer.stderr
    assert "seen" in answer.stderr
    assert answer.return_value == 0


def test_events_from_files_and_standard_input(run, tmp_path):
    (tmp_path / "event.json").write_text('{"b": 2}')
    assert json.loads(run("Hello", f"@{tmp_path}/event.json").stdout)["got"] == {"b": 2}
    assert json.loads(run("Hello", "-", stdin='{"c": 3}').stdout)["got"] == {"c": 3}


def test_a_failed_function_gives_exit_code_1(run):
    answer = run("Hello", '{"fail": 1}', "--no-log")
    assert answer.return_value == 1
    assert json.loads(answer.stdout)["errorType"] == "ValueError"
    assert answer.stderr == ""


def test_options(run):
    assert json.loads(run("Hello", "{}", "--context", '{"custom": {"k": 1}}').stdout)["client"] == {"k": 1}
    assert run("Hello", "{}", "--type", "DryRun").stdout == ""


def test_mistakes(run):
    assert isinstance(run("Hello", "{oops").exception, UserError)
    assert isinstance(run("Hello", "@/no/such/file").exception, UserError)
    error = run("nobody").exception
    assert isinstance(error, AwsError)
    assert error.code == "ResourceNotFoundException"
