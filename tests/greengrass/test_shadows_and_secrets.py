"""Shadows and secrets of a running core as a component and boto3 see them, also while the edge was away."""

import json
import textwrap
import time

from tests.e2e.conftest import start, stop

ARN = "arn:aws:secretsmanager:us-east-1:000000000000:secret:pump"
PART = textwrap.dedent("""
    RecipeFormatVersion: '2020-01-25'
    ComponentName: com.example.Part
    ComponentVersion: 1.0.0
    ComponentConfiguration:
      DefaultConfiguration:
        accessControl:
          aws.greengrass.ShadowManager: {p: {operations: ['*'], resources: ['*']}}
          aws.greengrass.SecretManager: {p: {operations: ['*'], resources: ['*']}}
    Manifests:
      - Platform: {os: linux}
        Lifecycle:
          run: exec python SCRIPT
""")
SCRIPT = """
import json, pathlib, sys, time
from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2
client, out = GreengrassCoreIPCClientV2(), pathlib.Path(sys.argv[0]).with_suffix(".json")
thing, count = sys.argv[1], 0
while True:
    seen = {}
    try:
        seen["secret"] = client.get_secret_value(secret_id="pump").secret_value.secret_string
        seen["shadow"] = json.loads(client.get_thing_shadow(thing_name=thing, shadow_name="").payload)["state"]
    except Exception as error:
        seen["error"] = repr(error)
    mode = seen.get("shadow", {}).get("desired", {}).get("mode")
    if mode and seen["shadow"].get("reported", {}).get("mode") != mode:
        state = json.dumps({"state": {"reported": {"mode": mode}}}).encode()
        client.update_thing_shadow(thing_name=thing, shadow_name="", payload=state)
    new = out.with_suffix(".new")
    new.write_text(json.dumps(seen))
    new.rename(out)
    time.sleep(0.05)
"""


def write(folder):
    def configured(configuration):
        return {"componentVersion": "2.0.0", "configurationUpdate": {"merge": json.dumps(configuration)}}

    secrets = {"cloudSecrets": [{"arn": ARN}], "periodicRefreshIntervalMin": "0.01"}
    components = {
        "com.example.Part": {"componentVersion": "1.0.0"},
        "aws.greengrass.ShadowManager": configured({"synchronize": {"coreThing": {"classic": True}}}),
        "aws.greengrass.SecretManager": configured(secrets),
    }
    (folder / "recipes").mkdir()
    (folder / "part.py").write_text(SCRIPT)
    (folder / "recipes/part.yaml").write_text(PART.replace("SCRIPT", f"{folder / 'part.py'} {{iot:thingName}}"))
    (folder / "recipes/deployment.json").write_text(json.dumps({"components": components}))


def until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def seen(folder):
    file = folder / "part.json"
    return json.loads(file.read_text()) if file.exists() else {}


def test_a_component_and_the_cloud_agree(tmp_path):
    write(tmp_path)
    edge = start(tmp_path, tmp_path / "home", "--only", "iot,greengrass")
    [thing] = edge.ends["cores"]
    try:
        manager, data = edge.boto3("secretsmanager"), edge.boto3("iot-data")
        manager.create_secret(Name="pump", SecretString="one")
        until(lambda: seen(tmp_path).get("secret") == "one")
        manager.put_secret_value(SecretId="pump", SecretString="two")
        until(lambda: seen(tmp_path).get("secret") == "two")
        data.update_thing_shadow(thingName=thing, payload=json.dumps({"state": {"desired": {"mode": "eco"}}}))

        def reported():
            return json.loads(data.get_thing_shadow(thingName=thing)["payload"].read())["state"].get("reported")

        until(lambda: reported() == {"mode": "eco"})
        assert seen(tmp_path)["shadow"]["desired"] == {"mode": "eco"}
        manager.delete_secret(SecretId="pump", ForceDeleteWithoutRecovery=True)
    finally:
        stop(edge)
    (tmp_path / "part.json").unlink()
    # What can't be fetched any more is the core's own still.
    edge = start(tmp_path, tmp_path / "home", "--only", "iot,greengrass")
    try:
        until(lambda: "shadow" in seen(tmp_path))
        assert seen(tmp_path) == {
            "secret": "two",
            "shadow": {"desired": {"mode": "eco"}, "reported": {"mode": "eco"}},
        }
    finally:
        stop(edge)
