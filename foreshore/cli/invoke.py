"""`foreshore invoke`: call a function of a running edge, as `aws lambda invoke` does, and show its log."""

from __future__ import annotations

import base64
import json
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import click

from foreshore.cli.running import endpoints
from foreshore.errors import AwsError, UserError


def read_payload(text: str) -> bytes:
    """The event: JSON as it is, `@file` or `-` for standard input. Raises UserError when it is not JSON."""
    if text == "-":
        data = sys.stdin.buffer.read()
    elif text.startswith("@"):
        try:
            data = Path(text[1:]).read_bytes()
        except OSError as error:
            raise UserError(f"can't read the event: {error.strerror}", code="event", where=text[1:]) from error
    else:
        data = text.encode()
    try:
        json.loads(data)
    except ValueError as error:
        raise UserError(f"the event is not JSON: {error}", code="event", mend="quote it, or give @file") from error
    return data


def full_name(base: str, name: str) -> str:
    """A function's whole name for a template's logical id (`IngestFunction`); any other name is left as it is."""
    with urllib.request.urlopen(f"{base}/2015-03-31/functions/?MaxItems=10000", timeout=30) as answer:
        names = [each["FunctionName"] for each in json.load(answer)["Functions"]]
    found = [each for each in names if f"-{name}-" in f"-{each}-"]
    return found[0] if name not in names and len(found) == 1 else name


KINDS = click.Choice(["RequestResponse", "Event", "DryRun"])


@click.command()
@click.argument("function")
@click.argument("event", default="{}")
@click.option("--type", "kind", type=KINDS, default="RequestResponse", show_default=True, help="How to invoke.")
@click.option("--context", default="", metavar="JSON", help="The client context.")
@click.option("--no-log", is_flag=True, help="Do not show the function's log.")
@click.pass_obj
def command(obj: dict[str, str], function: str, event: str, kind: str, context: str, no_log: bool) -> int:
    """Invoke FUNCTION with EVENT: JSON, @file or - for standard input.

    FUNCTION is a name, name:qualifier, ARN or the logical id in a template. The result goes to standard output, the
    function's log to standard error. The exit code is 1 when the function failed.
    """
    headers = {"Content-Type": "application/json", "X-Amz-Invocation-Type": kind, "X-Amz-Log-Type": "Tail"}
    if context:
        headers["X-Amz-Client-Context"] = base64.b64encode(context.encode()).decode()
    payload = read_payload(event)
    base = str(endpoints(obj["project"])["aws"])
    result, failed, log = invoke(base, full_name(base, function), payload, headers)
    if log and not no_log:
        click.echo(log.decode("utf-8", "replace").replace("\r", "\n"), err=True, nl=False)
    if result:
        click.echo(result.decode("utf-8", "replace"))
    return 1 if failed else 0


def invoke(base: str, function: str, payload: bytes, headers: dict[str, str]) -> tuple[bytes, bool, bytes]:
    """Give the result, whether the function failed, and its log. Raises AwsError."""
    url = f"{base}/2015-03-31/functions/{urllib.parse.quote(function, safe='')}/invocations"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, payload, headers), timeout=960) as answer:
            log = base64.b64decode(answer.headers.get("X-Amz-Log-Result", ""))
            return answer.read(), "X-Amz-Function-Error" in answer.headers, log
    except urllib.error.HTTPError as error:
        with error:
            body = json.loads(error.read() or b"{}")
        code = error.headers.get("x-amzn-ErrorType", "").partition(":")[0] or "ServiceException"
        raise AwsError(code, body.get("Message") or body.get("message") or error.reason, error.code) from None
