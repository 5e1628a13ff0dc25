"""Job documents: where they come from, their parameters, and S3 addresses that become presigned URLs. Pure.

Sources: AWS IoT developer guide, "Create and manage jobs" (presigned URLs, presigned URL for file upload), "AWS
managed templates"; Amazon S3 user guide, "Methods for accessing a bucket".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import orjson

from foreshore.errors import AwsError

Json = Any
Document = dict[str, Any]

MAX_DOCUMENT = 32 * 1024
DEFAULT_EXPIRY_S = 3600
_PATH_HOST = re.compile(r"s3(?:[.-][a-z0-9-]+)?\.amazonaws\.com(?:\.cn)?$|s3\.dualstack\.[a-z0-9-]+\.amazonaws\.com$")
_BUCKET_HOST = re.compile(r"(.+)\.s3(?:[.-][a-z0-9-]+)?\.amazonaws\.com(?:\.cn)?$")
_PLACEHOLDER = re.compile(r"\$\{aws:iot:s3-presigned-url(-upload)?:((?:[^{}]|\$\{[A-Za-z]+\})+)\}")
_PARAMETER = re.compile(r"\$\{aws:iot:parameter:([^}]+)\}")
KEYWORDS = ("thingName", "jobId", "executionNumber")

Presign = Callable[[str, "S3Object", int], str]
"""Give the URL that allows one method (GET or PUT) on an object for some seconds."""


class S3Object(NamedTuple):
    """An object of a bucket; `version` is empty for the newest."""

    bucket: str
    key: str
    version: str = ""


def bad(text: str) -> AwsError:
    """The error for a document that AWS IoT refuses."""
    return AwsError("InvalidRequestException", text, 400)


def s3_object(url: str) -> S3Object:
    """Read an S3 object URL, of either style. Raises AwsError InvalidRequestException."""
    split = urlsplit(url)
    host, path = split.netloc.lower(), unquote(split.path.lstrip("/"))
    hosted = _BUCKET_HOST.match(host)
    if split.scheme != "https":
        raise bad(f"{url} is no S3 object URL")
    if _PATH_HOST.match(host):
        bucket, _, key = path.partition("/")
    elif hosted:
        bucket, key = hosted[1], path
    else:
        raise bad(f"{url} is no S3 object URL")
    if not bucket or not key:
        raise bad(f"{url} names no bucket and object")
    return S3Object(bucket, key, parse_qs(split.query).get("versionId", [""])[0])


def check(text: str, presigned: Mapping[str, Json] | None) -> None:
    """Check a job document. Raises AwsError InvalidRequestException."""
    if len(text.encode()) > MAX_DOCUMENT:
        raise bad(f"The job document exceeds {MAX_DOCUMENT} bytes")
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        raise bad("The job document is not JSON") from None
    for match in _PLACEHOLDER.finditer(text):
        if not (presigned or {}).get("roleArn"):
            raise bad("presignedUrlConfig with a roleArn is required for a document with presigned URLs")
        _check_address(match)


def _check_address(match: re.Match[str]) -> None:
    target = s3_object(match[2])
    if "${" not in match[2]:
        return
    if not match[1] or "${" in target.bucket:
        raise bad("Keywords are allowed only in the key of a presigned URL for upload")
    for name in re.findall(r"\$\{([A-Za-z]+)\}", target.key):
        if name not in KEYWORDS or target.key.count("${" + name + "}") > 2:
            raise bad(f"The keyword {name} is not allowed, or more than twice")


def presigned(text: str, values: Mapping[str, str], presign: Presign, expiry: int) -> str:
    """The document as a device gets it: every placeholder of an S3 address replaced by a URL with a signature."""

    def replaced(match: re.Match[str]) -> str:
        address = match[2]
        for name in KEYWORDS:
            address = address.replace("${" + name + "}", values[name])
        url = presign("PUT" if match[1] else "GET", s3_object(address), expiry)
        return orjson.dumps(url).decode()[1:-1]

    return _PLACEHOLDER.sub(replaced, text)


def with_parameters(template: Mapping[str, Json], given: Mapping[str, str]) -> str:
    """A managed template's document with its parameters. Raises AwsError InvalidRequestException."""
    known = {each["key"]: each for each in template["documentParameters"]}
    for name in given:
        if name not in known:
            raise bad(f"{name} is no parameter of {template['templateName']}")
    for name, parameter in known.items():
        value = given.get(name)
        if value is None and not parameter["optional"]:
            raise bad(f"The parameter {name} of {template['templateName']} is required")
        if value is not None and not re.fullmatch(parameter["regex"], value, re.DOTALL):
            raise bad(f"The parameter {name} does not match {parameter['regex']}")
    return _PARAMETER.sub(lambda match: orjson.dumps(given.get(match[1], "")).decode()[1:-1], template["document"])
