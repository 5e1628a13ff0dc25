"""Shape an AwsError for a client whose service model is not at hand: JSON, query or REST-XML, by the request. Pure.

Source: botocore/smithy protocol documents (awsJson1_0, restJson1, awsQuery, restXml): where each looks for the code.
"""

from __future__ import annotations

from xml.sax.saxutils import escape

import orjson

from foreshore.errors import AwsError
from foreshore.http import Request, Response


def error_response(error: AwsError, request: Request) -> Response:
    """The error in the shape that the client of this request parses."""
    content_type = request.header("content-type")
    is_query = "x-www-form-urlencoded" in content_type and b"Action=" in request.body
    if is_query or request.raw_path.startswith("/2020-05-31/"):
        kind = "Sender" if error.status < 500 else "Receiver"
        body = (
            f'<?xml version="1.0"?><ErrorResponse><Error><Type>{kind}</Type><Code>{escape(error.code)}</Code>'
            f"<Message>{escape(error.message)}</Message></Error><RequestId>foreshore</RequestId></ErrorResponse>"
        )
        return Response(error.status, [(b"Content-Type", b"text/xml")], body.encode())
    if "/s3/aws4_request" in request.header("authorization") or "%2Fs3%2Faws4_request" in request.query_string:
        body = (
            f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{escape(error.code)}</Code>'
            f"<Message>{escape(error.message)}</Message><RequestId>foreshore</RequestId></Error>"
        )
        return Response(error.status, [(b"Content-Type", b"application/xml")], body.encode())
    members = {
        "__type": error.code,
        "code": error.code,
        "message": error.message,
        "Message": error.message,
        **error.extra,
    }
    headers = [(b"Content-Type", b"application/json"), (b"x-amzn-ErrorType", error.code.encode())]
    return Response(error.status, headers, orjson.dumps(members, default=str))
