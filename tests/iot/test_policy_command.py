"""`foreshore policy explain`, on documents and on a project's state."""

import json

from click.testing import CliRunner

from foreshore.cli import foreshore

DOCUMENT = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Sid": "own",
            "Effect": "Allow",
            "Action": "iot:Publish",
            "Resource": "arn:aws:iot:*:*:topic/${iot:ClientId}/*",
        }
    ],
}


def run(*arguments):
    return CliRunner().invoke(foreshore, [*map(str, arguments)])


def test_a_document(tmp_path):
    path = tmp_path / "p.json"
    path.write_text(json.dumps(DOCUMENT))
    answer = run("policy", "explain", "publish", "c/a", "-d", path, "--var", "iot:ClientId=c")
    assert answer.exit_code == 0
    assert answer.output.splitlines()[-1].startswith(
        "ALLOWED: iot:Publish on arn:aws:iot:us-east-1:000000000000:topic/c/a"
    )
    assert "p.json, statement 1 (own)" in answer.output
    answer = run("policy", "explain", "publish", "c/a", "-d", path)
    assert answer.exit_code == 1
    assert "no value for iot:ClientId" in answer.output
    assert run("policy", "explain", "publish", "c/a").exit_code == 2


def test_a_thing_of_a_project(edge):
    iot = edge.client()
    iot.create_thing(thingName="c")
    made = iot.create_keys_and_certificate(setAsActive=True)
    iot.create_policy(policyName="p", policyDocument=json.dumps(DOCUMENT))
    iot.create_thing_group(thingGroupName="g")
    iot.add_thing_to_thing_group(thingGroupName="g", thingName="c")
    iot.attach_policy(policyName="p", target="arn:aws:iot:us-east-1:000000000000:thinggroup/g")
    iot.attach_thing_principal(thingName="c", principal=made["certificateArn"])
    (edge.folder / ".foreshore").mkdir()
    (edge.folder / ".foreshore" / "state").symlink_to(edge.folder / "state")
    answer = run("-C", edge.folder, "policy", "explain", "Publish", "c/a", "--thing", "c")
    assert answer.exit_code == 0, answer.output
    assert "p, statement 1 (own): allows it" in answer.output
    answer = run("-C", edge.folder, "policy", "explain", "Connect", "c", "--thing", "c")
    assert answer.exit_code == 1
    # With another client id the certificate does not stand for the thing, and the group's policy is not in force.
    assert run("-C", edge.folder, "policy", "explain", "Publish", "d/a", "-t", "c", "--client-id", "d").exit_code == 1
