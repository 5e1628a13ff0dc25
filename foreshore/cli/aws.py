"""Ask the running edge's AWS endpoint, in the REST forms of AWS's APIs, without the weight of an SDK."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import click

from foreshore.cli.running import endpoints
from foreshore.errors import AwsError, UserError

SECONDS = 60.0


def ask(folder: str, service: str, method: str, path: str, body: Any = None, **query: object) -> Any:
    """One call; its answer decoded, None when it is empty. `service` is the signing name; None query values fall away.

    Raises AwsError with what the service said, UserError when no edge runs.
    """
    found = endpoints(folder)
    given = {name: value for name, value in query.items() if value is not None}
    url = f"{found['aws']}{path}" + (f"?{urlencode(given)}" if given else "")
    scope = f"foreshore/20200101/{found['region']}/{service}/aws4_request"
    headers = {
        "Authorization": f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0",
        "Content-Type": "application/json",
    }
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            text = answer.read()
    except urllib.error.HTTPError as error:
        raise _said(error) from None
    except (urllib.error.URLError, OSError) as error:
        raise UserError(
            f"the edge does not answer: {getattr(error, 'reason', error)}", code="not-running", where=found["aws"],
            mend="start it with `foreshore dev`",
        ) from error  # fmt: skip
    return json.loads(text) if text else None


def _said(error: urllib.error.HTTPError) -> AwsError:
    text = error.read()
    try:
        document = json.loads(text)
    except ValueError:
        document = {}
    code = error.headers.get("x-amzn-ErrorType", "").partition(":")[0] or str(document.get("code", error.code))
    message = document.get("message") or document.get("Message") or text.decode("utf-8", "replace")
    return AwsError(code, str(message), error.code)


def segment(name: str) -> str:
    """A name as one segment of a path."""
    return quote(name, safe="")


def json_argument(text: str, what: str) -> Any:
    """JSON given as text, as `@file`, or as a file's name. Raises UserError."""
    path = Path(text.removeprefix("@"))
    where = what
    if text.startswith("@") or (text.lstrip()[:1] not in ("{", "[") and path.is_file()):
        where = str(path)
        try:
            text = path.read_text("utf-8")
        except OSError as error:
            raise UserError(f"can't be read: {error.strerror}", code="no-file", where=where) from error
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"this is not JSON: {error}", code="json", where=where, mend="quote it for the shell") from None


def show(value: Any) -> None:
    """Print a document, indented."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))
