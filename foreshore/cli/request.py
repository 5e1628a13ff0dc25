"""`foreshore request`: one HTTP request through a distribution, and what the edge decided about it."""

from __future__ import annotations

import http.client
import json
import sys
import time
from typing import Any
from urllib.parse import urlsplit

import click

from foreshore.cli.running import endpoints, get
from foreshore.errors import AwsError, UserError


def address(folder: str, url: str, name: str) -> tuple[str, str, str]:
    """(distribution, base URL, target) of what the user wrote: a path, or a URL of a running distribution."""
    found: dict[str, str] = endpoints(folder).get("distributions", {})
    if not found:
        raise UserError(
            "no distribution runs here", code="not-running", where=folder, mend="start it with `foreshore dev`"
        )
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if parts.netloc:
        chosen = next((n for n, base in found.items() if urlsplit(base).netloc == parts.netloc), "")
    else:
        chosen = name or next(iter(found))
        target = target if target.startswith("/") else "/" + target
    if chosen not in found:
        known = ", ".join(f"{n} {base}" for n, base in found.items())
        raise UserError(
            f"{name or parts.netloc!r} is not a distribution here", code="distribution", mend=f"use one of: {known}"
        )
    return chosen, found[chosen], target


def exchange(base: str, method: str, target: str, headers: dict[str, str], body: bytes | None) -> dict[str, Any]:
    """Send it; give status, headers, body and the milliseconds it took. Redirects are not followed."""
    parts = urlsplit(base)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    begun = time.perf_counter()
    try:
        connection.request(method, target, body, headers)
        answer = connection.getresponse()
        content = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise UserError(
            f"the distribution does not answer: {error}",
            code="not-running",
            where=base,
            mend="is `foreshore dev` running?",
        ) from error
    finally:
        connection.close()
    return {
        "status": answer.status, "reason": answer.reason, "headers": answer.getheaders(), "body": content,
        "ms": round((time.perf_counter() - begun) * 1000, 2),
    }  # fmt: skip


def _explain(folder: str, name: str, answer: dict[str, Any]) -> dict[str, Any]:
    """What the edge says about the request; a hit on the short way leaves only its X-Cache."""
    identifier = next((value for key, value in answer["headers"] if key.lower() == "x-amz-cf-id"), "")
    try:
        found: dict[str, Any] = get(folder, f"/_foreshore/cloudfront/{name}/explain/{identifier}")
    except (UserError, AwsError):
        found = {}
    return found


def _print(answer: dict[str, Any], told: dict[str, Any], show_body: bool) -> None:
    print(f"HTTP {answer['status']} {answer['reason']}  {answer['ms']} ms, {len(answer['body'])} bytes")
    for key, value in answer["headers"]:
        print(f"  {key}: {value}")
    rows = [
        ("behaviour", told.get("behavior")),
        ("cache policy", told.get("cache_policy")),
        ("looked up", told and told["uri"] + (f"?{told['querystring']}" if told["querystring"] else "")),
        ("cache key", told.get("cache_key") and " | ".join(part or "-" for part in told["cache_key"])),
        ("functions", told and (", ".join(told["functions"]) or "none ran")),
        ("x-cache", told.get("x_cache")),
        ("origin", told.get("origin") or None),
        ("took", ", ".join(f"{name} {ms} ms" for name, ms in told.get("timings_ms", {}).items())),
        ("trace", told.get("trace_id")),
    ]  # fmt: skip
    for name, value in rows:
        if value:
            print(f"  {name:<14}{value}")
    if show_body:
        sys.stdout.flush()
        sys.stdout.buffer.write(answer["body"] + b"\n")


@click.command(help="Send a request for URL (a path, or a distribution's URL) and show what the edge did with it.")
@click.argument("url")
@click.option("-X", "--method", default="GET", show_default=True)
@click.option(
    "-H", "--header", "headers", multiple=True, metavar="NAME:VALUE", help="A request header; may be repeated."
)
@click.option("-d", "--data", default=None, help="The request's body (- reads standard input).")
@click.option("--distribution", default="", metavar="NAME", help="The logical id, when several run.")
@click.option("--body/--no-body", "show_body", default=False, help="Print the body too.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def command(
    ctx: click.Context, url: str, method: str, headers: tuple[str, ...], data: str | None, distribution: str,
    show_body: bool, as_json: bool,
) -> None:  # fmt: skip
    """Send one request and explain it."""
    folder = ctx.obj["project"]
    name, base, target = address(folder, url, distribution)
    pairs = {}
    for header in headers:
        key, colon, value = header.partition(":")
        if not colon:
            raise UserError(f"{header!r} is not NAME:VALUE", code="header")
        pairs[key.strip()] = value.strip()
    body = sys.stdin.buffer.read() if data == "-" else data.encode() if data is not None else None
    answer = exchange(base, method.upper(), target, pairs, body)
    told = _explain(folder, name, answer)
    if as_json:
        shown = {**answer, "body": answer["body"].decode("utf-8", "replace"), "distribution": name, "edge": told}
        print(json.dumps(shown))
        return
    _print(answer, told, show_body)
