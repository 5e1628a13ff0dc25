"""What is refused of a signed WebSocket URL, and what is not."""

from datetime import UTC, datetime

import pytest

from foreshore.iot.presigned import presigned_problem

NOW = datetime(2026, 3, 1, 0, 5, tzinfo=UTC).timestamp()
GOOD = {
    "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
    "X-Amz-Credential": "AKID/20260301/eu-west-1/iotdevicegateway/aws4_request",
    "X-Amz-Date": "20260301T000000Z",
    "X-Amz-SignedHeaders": "host",
    "X-Amz-Signature": "0a" * 32,
}
YESTERDAY = {
    "X-Amz-Date": "20260228T235930Z",
    "X-Amz-Credential": "AKID/20260228/eu-west-1/iotdata/aws4_request",
}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({}, ""),
        (YESTERDAY, ""),
        ({"X-Amz-Security-Token": "t", "X-Amz-Expires": "86400", "X-Amz-SignedHeaders": "accept;host"}, ""),
        ({"X-Amz-Expires": "301"}, ""),
        ({"X-Amz-Expires": "299"}, "Signature expired: 20260301T000000Z"),
        ({"X-Amz-Date": "20260301T001959Z"}, ""),
        ({"X-Amz-Date": "20260301T002001Z"}, "Signature not yet current: 20260301T002001Z"),
        ({**YESTERDAY, "X-Amz-Date": "20260228T234959Z", "X-Amz-Expires": "604800"},
         "Signature expired: 20260228T234959Z"),
        ({"X-Amz-Expires": "604801"}, "X-Amz-Expires must be between 1 and 604800 seconds"),
        ({"X-Amz-Expires": "0"}, "X-Amz-Expires must be between 1 and 604800 seconds"),
        ({"X-Amz-Expires": "soon"}, "X-Amz-Expires must be between 1 and 604800 seconds"),
        ({"X-Amz-Date": "2026-03-01"}, "X-Amz-Date is not a time: '2026-03-01'"),
        ({"X-Amz-Date": "20260301T009900Z"}, "X-Amz-Date is not a time: '20260301T009900Z'"),
        ({"X-Amz-Date": YESTERDAY["X-Amz-Date"]},
         "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: 20260301"),
        ({"X-Amz-Credential": "AKID/20260301/eu-west-1/s3/aws4_request"},
         "Credential should be scoped to correct service: 'iotdevicegateway'"),
        ({"X-Amz-Credential": "AKID"}, "X-Amz-Credential must be KEY/DATE/REGION/SERVICE/aws4_request"),
        ({"X-Amz-Algorithm": "AWS4-ECDSA-P256-SHA256"}, "X-Amz-Algorithm must be AWS4-HMAC-SHA256"),
        ({"X-Amz-SignedHeaders": "hosts"}, "'Host' must be a 'SignedHeader' in the AWS Authorization"),
        ({"X-Amz-Signature": "0a"}, "X-Amz-Signature must be 64 hexadecimal digits"),
    ],
)  # fmt: skip
def test_a_signed_url(change, problem):
    assert presigned_problem({**GOOD, **change}, NOW) == problem
