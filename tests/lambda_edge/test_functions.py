"""The example's two edge functions, called as Lambda would."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"lambda_edge_{name}", ROOT / "lambda_edge" / name / "app.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def event(**members: Any) -> dict[str, Any]:
    return {"Records": [{"cf": members}]}


@pytest.mark.parametrize(
    ("uri", "query", "expected"),
    [
        ("/api/windows", "next=b&limit=3&junk=1", ("/windows", "limit=3&next=b")),
        ("/api", "", ("/", "")),
        ("/static/page.css", "v=2", ("/static/page.css", "")),
        ("/", "utm=1", ("/index.html", "")),
        ("/docs/", "", ("/docs/index.html", "")),
    ],
)
def test_viewer_request_gives_one_form(uri: str, query: str, expected: tuple[str, str]) -> None:
    request = {"uri": uri, "querystring": query, "method": "GET", "headers": {}}
    result = load("viewer_request").handler(event(request=request), None)
    assert (result["uri"], result["querystring"]) == expected


def test_viewer_response_sets_security_headers_and_nothing_read_only() -> None:
    response = {"status": "200", "headers": {"via": [{"key": "Via", "value": "1.1 x"}]}}
    result = load("viewer_response").handler(event(response=response), None)
    assert result["headers"]["via"] == [{"key": "Via", "value": "1.1 x"}]
    assert "frame-ancestors 'none'" in result["headers"]["content-security-policy"][0]["value"]
    assert result["headers"]["strict-transport-security"]
