"""The same handlers under the thin client and under AWS's own: every byte of results, errors and logs is equal."""

import json
import re

import pytest

from foreshore.functions.spec import FunctionSpec

HANDLER = """
import collections, datetime, decimal, logging, os, sys

Point = collections.namedtuple("Point", "x y")
logger = logging.getLogger()

class Odd(Exception):
    pass

VALUES = {
    "plain": {"a": [1, 2.5, True, None], "b": {"c": "d"}, "empty": [[], {}, ""]},
    "text": "naïve \\u2028 \\U0001f600 \\x7f \\"",
    "decimal": [decimal.Decimal("1.10"), decimal.Decimal("1E+30"), decimal.Decimal("NaN"), {"n": decimal.Decimal(3)}],
    "namedtuple": Point(1, (2, 3)),
    "bytes inside": {"b": b"abc", b"key": 1},
    "bytes": b"raw \\xff bytes",
    "keys": {1: "a", 2.5: "b", True: "c", None: "d"},
    "floats": [float("nan"), float("inf"), float("-inf"), 1e100, 0.1, -0.0],
    "huge": 2 ** 70,
    "tuple": (1, (2,)),
    "set": {1},
    "date": datetime.date(2020, 1, 1),
    "bad bytes": {"b": b"\\xff"},
}

def handler(event, context):
    name = event["name"]
    if name == "raise":
        def inner():
            raise Odd("some 'text'\\nin two lines")
        inner()
    if name == "chained":
        try:
            {}["k"]
        except KeyError as error:
            raise Odd() from error
    if name == "log":
        logger.setLevel("DEBUG")
        logger.warning("a %s", "warning")
        logger.info("with\\ttab")
        logger.error("over\\nlines")
        try:
            1 / 0
        except ZeroDivisionError:
            logger.exception("failed")
        print("printed", end="")
        return None
    if name == "context":
        return [context.function_name, context.memory_limit_in_mb, context.function_version,
                context.identity.cognito_identity_id,
                context.client_context.client.app_title, context.client_context.custom, context.client_context.env,
                context.tenant_id, context.w3c(), context.invoked_function_arn]
    if name == "circular":
        value = []
        value.append(value)
        return value
    if name == "path":
        return [os.getcwd() == sys.path[0], os.environ["PYTHONPATH"][-12:]]
    return VALUES[name]
"""
CASES = ["plain", "text", "decimal", "namedtuple", "bytes inside", "bytes", "keys", "floats", "huge", "tuple", "set",
         "date", "bad bytes", "raise", "chained", "log", "context", "circular"]  # fmt: skip
CONTEXT = {
    "client": {"app_title": "t"},
    "custom": {"a": 1},
    "env": {"e": "f"},
    "w3c": {"traceparent": "00-1-2-01", "x": 1},
}
BROKEN = {
    "missing": "import no_such_module_here\n",
    "raises": "def f():\n    raise RuntimeError('at import')\nf()\n",
    "syntax": "x = = 1\n",
    "no_handler": "x = 1\n",
}


def normal(text: str) -> str:
    """Ids, times and counts out; the rest must be equal."""
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "<id>", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3})?Z", "<time>", text)
    text = re.sub(r"\d+(\.\d\d)? (ms|MB)", r"<n> \2", text)
    text = re.sub(r"fn-\w+-(thin|awslambdaric)", "<fn>", text)
    return re.sub(r"Init Duration: <n> ms\t", "", text)


def observe(make_edge, tmp_path, client, runtime, log_format):
    code = tmp_path / "code"
    code.mkdir(exist_ok=True)
    (code / "app.py").write_text(HANDLER)
    for name, source in BROKEN.items():
        (code / f"{name}.py").write_text(source)
    edge = make_edge(client, client=client)
    seen = {}

    async def run():
        for name, handler in [
            ("cases", "app.handler"),
            *((name, f"{name}.handler") for name in BROKEN),
            ("bad", "nodot"),
        ]:
            spec = FunctionSpec(
                f"fn-{name}-{client}", code, handler, runtime=runtime, timeout_s=10, log_format=log_format
            )
            edge.functions.create(spec)
        for case in CASES:
            event = json.dumps({"name": case}).encode()
            context = json.dumps(CONTEXT).encode()
            result = await edge.functions.invoke(f"fn-cases-{client}", event, client_context=context)
            seen[case] = (
                normal(result.payload.decode("latin-1")),
                result.function_error,
                normal(result.log_tail.decode()),
            )
        for name in [*BROKEN, "bad"]:
            result = await edge.functions.invoke(f"fn-{name}-{client}", b"{}")
            seen[name] = (normal(result.payload.decode("latin-1")), result.function_error)

    edge.run(run())
    return seen


@pytest.mark.parametrize(
    ("runtime", "log_format"), [("python3.11", "Text"), ("python3.13", "Text"), ("python3.13", "JSON")]
)
def test_both_clients_are_equal(make_edge, tmp_path, runtime, log_format):
    thin = observe(make_edge, tmp_path, "thin", runtime, log_format)
    theirs = observe(make_edge, tmp_path, "awslambdaric", runtime, log_format)
    for case in theirs:
        assert thin[case] == theirs[case], case
