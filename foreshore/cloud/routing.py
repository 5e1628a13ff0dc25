"""Name the AWS service that a request is for, from what every AWS client sends. Pure.

Order: the host name (execute-api, lambda-url), the SigV4 credential scope in the Authorization header or the query
(AWS General Reference, "Signature Version 4": `<key>/<date>/<region>/<service>/aws4_request`), then paths that only one
service has. A request that names nobody belongs to the backend.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import parse_qs

from foreshore.http import Request

_SCOPE = re.compile(r"Credential=[^/,\s]+/\d{8}/([^/,\s]*)/([^/,\s]+)/aws4_request")
_EXECUTE_API = re.compile(r"^([a-z0-9]+)\.execute-api\.")
_LAMBDA_URL = re.compile(r"^([a-z0-9]+)\.lambda-url\.")
_API_PATH = re.compile(r"^/_aws/execute-api/([a-z0-9]+)/([^/?]+)(/[^?]*)?")

# Paths that tell the service of an unsigned request (curl, a browser, botocore's UNSIGNED).
_PATHS = (
    (re.compile(r"^/(2014-11-13|2015-03-31|2017-03-31|2017-10-31|2018-10-31|2019-09-25|2019-09-30|2020-04-22|2021-10-31|"
                r"2021-11-15)/(functions|event-source-mappings|layers|tags|account-settings)"), "lambda"),
    (re.compile(r"^/(topics/|retainedMessage|things/[^/]+/shadow|api/things/shadow)"), "iotdata"),
    (re.compile(r"^/things/[^/]+/jobs"), "iot-jobs-data"),
    (re.compile(r"^/2020-05-31/"), "cloudfront"),
    (re.compile(r"^/greengrass/v2/"), "greengrass"),
)  # fmt: skip


class Target(NamedTuple):
    """Who is asked: `service` is SigV4's signing name, or execute-api, lambda-url, admin; "" means the backend."""

    service: str
    resource: str = ""
    stage: str = ""
    path: str = ""
    region: str = ""


def route(request: Request) -> Target:
    """Name the service a request is for."""
    path = request.raw_path
    if path.startswith("/_foreshore/"):
        room, _, rest = path[len("/_foreshore/") :].partition("/")
        return Target("admin", room, path="/" + rest)
    host = request.header("host").rpartition(":")[0] or request.header("host")
    if found := _EXECUTE_API.match(host):
        return Target("execute-api", found[1], "", path)
    if found := _LAMBDA_URL.match(host):
        return Target("lambda-url", found[1], "", path)
    if found := _API_PATH.match(path):
        return Target("execute-api", found[1], found[2], found[3] or "/")
    scope = _SCOPE.search(request.header("authorization")) or _query_scope(request.query_string)
    if scope is not None:
        return Target(scope[2], path=path, region=scope[1])
    for pattern, service in _PATHS:
        if pattern.match(path):
            return Target(service, path=path)
    return Target("", path=path)


def _query_scope(query: str) -> re.Match[str] | None:
    if "X-Amz-Credential" not in query:
        return None
    values = parse_qs(query).get("X-Amz-Credential", [""])
    return _SCOPE.search(f"Credential={values[0]}")
