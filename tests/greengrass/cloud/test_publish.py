"""What AWS's `gdk component publish` asks, in its order: it numbers versions by what is there and makes its bucket."""

import pytest
from botocore.exceptions import ClientError

from tests.e2e.conftest import start, stop

NAME = "com.example.Published"
RECIPE = """\
RecipeFormatVersion: '2020-01-25'
ComponentName: {name}
ComponentVersion: {version}
Manifests:
- Platform: {{os: all}}
  Artifacts:
  - URI: {uri}
    Unarchive: ZIP
  Lifecycle: {{Run: exec sleep 600}}
"""


@pytest.fixture
def edge(tmp_path):
    running = start(tmp_path, tmp_path / "home", "--only", "iot,greengrass")
    yield running
    stop(running)


def publish(edge, body):
    """One run; give the version it made."""
    account = edge.boto3("sts").get_caller_identity()["Account"]
    client, s3 = edge.boto3("greengrassv2"), edge.boto3("s3")
    arn = f"arn:aws:greengrass:us-east-1:{account}:components:{NAME}"
    there = client.list_component_versions(arn=arn)["componentVersions"]
    last = int(there[0]["componentVersion"].rpartition(".")[2]) if there else -1
    version, bucket = f"1.0.{last + 1}", f"parts-us-east-1-{account}"
    try:
        assert s3.get_bucket_location(Bucket=bucket)["LocationConstraint"] is None
    except ClientError as error:
        assert error.response["Error"]["Code"] == "NoSuchBucket"
        s3.create_bucket(Bucket=bucket)
    key = f"{NAME}/{version}/parts.zip"
    s3.put_object(Bucket=bucket, Key=key, Body=body)
    text = RECIPE.format(name=NAME, version=version, uri=f"s3://{bucket}/{key}")
    return client.create_component_version(inlineRecipe=text)["componentVersion"]


def test_versions_are_published_one_after_the_other(edge):
    assert [publish(edge, b"one"), publish(edge, b"two")] == ["1.0.0", "1.0.1"]
