"""A client of another region is answered, and told of in the log, once."""

import boto3

from foreshore.traces.store import TraceReader
from tests.e2e.conftest import start, stop


def test_another_region_is_noted_once(tmp_path):
    (tmp_path / "foreshore.toml").write_text('region = "eu-central-1"\n')
    edge = start(tmp_path, tmp_path / "home", "--only", "iot")
    try:
        assert edge.ends["region"] == "eu-central-1"
        for region in ("eu-central-1", "ap-south-1", "ap-south-1"):
            iot = boto3.client(
                "iot", endpoint_url=edge.ends["aws"], region_name=region, aws_access_key_id="x",
                aws_secret_access_key="x",
            )  # fmt: skip
            made = iot.create_thing(thingName="t")
            assert made["thingArn"] == "arn:aws:iot:eu-central-1:000000000000:thing/t"
    finally:
        stop(edge)
    reader = TraceReader(tmp_path / "home/state/traces.db")
    noted = [line.text for _, line in reader.logs() if "is signed for" in line.text]
    reader.close()
    assert len(noted) == 1 and "ap-south-1" in noted[0] and "this edge is eu-central-1" in noted[0]
