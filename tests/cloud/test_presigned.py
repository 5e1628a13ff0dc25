"""Presigned S3 URLs made with credentials that nobody has registered."""

import urllib.error
import urllib.request

import boto3
import pytest
from botocore.config import Config

from tests.e2e.conftest import start, stop


@pytest.fixture(scope="module")
def edge(tmp_path_factory):
    folder = tmp_path_factory.mktemp("presigned")
    running = start(folder, folder / "home", "--only", "lambda")
    yield running
    stop(running)


@pytest.mark.parametrize("key", ["foreshore", "AKIAIOSFODNN7EXAMPLE", "test"])
def test_any_credentials_put_and_get(edge, key):
    secret = "test" if key == "test" else "wJalrXUtnFEMI"
    config = Config(signature_version="s3v4", s3={"addressing_style": "path"})
    s3 = boto3.client(
        "s3", endpoint_url=edge.ends["aws"], region_name="eu-west-1", aws_access_key_id=key,
        aws_secret_access_key=secret, config=config,
    )  # fmt: skip
    bucket = f"signed-{key.lower()}"
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    wish = {"Bucket": bucket, "Key": "a b/ü.json", "ContentType": "application/json"}
    url = s3.generate_presigned_url("put_object", Params=wish)
    request = urllib.request.Request(url, b'{"a": 1}', {"Content-Type": "application/json"}, method="PUT")
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 200
    wish = {"Bucket": bucket, "Key": "a b/ü.json", "ResponseContentDisposition": "attachment"}
    with urllib.request.urlopen(s3.generate_presigned_url("get_object", Params=wish)) as answer:
        assert answer.read() == b'{"a": 1}'
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.headers["Content-Disposition"] == "attachment"


def test_a_url_whose_time_is_over_stays_refused(edge):
    query = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=k%2F20200101%2Fus-east-1%2Fs3%2Faws4_request"
    query += f"&X-Amz-Date=20200101T000000Z&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature={'0' * 64}"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{edge.ends['aws']}/signed-foreshore/a%20b/%C3%BC.json?{query}")
    assert refused.value.code == 403
    assert b"Request has expired" in refused.value.read()
    refused.value.close()
