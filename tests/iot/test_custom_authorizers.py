"""What a custom authorizer's answer may be, and how long it is good for."""

import asyncio
import http.client
import json
import queue
import ssl

import pytest
from botocore.exceptions import ClientError

from tests.iot.test_identities import Device, listen, signing_pair

FUNCTION = "arn:aws:lambda:us-east-1:000000000000:function:auth"
NAME = "x-amz-customauthorizer-name"


def policy(*topics):
    publish = [f"arn:aws:iot:*:*:topic/{topic}" for topic in topics]
    statements = [{"Effect": "Allow", "Action": "iot:Connect", "Resource": "*"}]
    statements.append({"Effect": "Allow", "Action": "iot:Publish", "Resource": publish})
    return {"Version": "2012-10-17", "Statement": statements}


def answering(edge, answers, **more):
    """An open authorizer `a` whose function gives these answers, one after the other, and then the last one."""
    asked = queue.Queue()

    def authorize(payload):
        asked.put(json.loads(payload))
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        return json.dumps(answer).encode()

    edge.functions["auth"] = authorize
    base = {"authorizerName": "a", "authorizerFunctionArn": FUNCTION, "status": "ACTIVE", "signingDisabled": True}
    edge.client().create_authorizer(**{**base, **more})
    return asked


def yes(*topics, **more):
    return {"isAuthenticated": True, "principalId": "p1", "policyDocuments": [policy(*topics)], **more}


def pass_time(edge, seconds):
    async def jump():
        edge.iot.broker.wheel.advance(edge.iot.broker.now + seconds)

    edge.run(jump())


def test_an_authorizer_is_asked_again_and_may_allow_other_things(edge):
    asked = answering(edge, [yes("old", refreshAfterInSeconds=300), yes("new", refreshAfterInSeconds=300), {}])
    heard, gone = listen(edge, "#"), listen(edge, "$aws/events/presence/disconnected/c")
    device = Device(edge, "c", username=f"u?{NAME}=a", password="x", alpn="mqtt")
    assert device.connect() == "Success"
    assert asked.get(timeout=10)["protocolData"]["mqtt"]["clientId"] == "c"
    device.client.publish("old", b"1", 1).wait_for_publish(10)
    pass_time(edge, 301)
    asked.get(timeout=10)
    edge.run(settle(edge))
    for topic in ("old", "new"):
        device.client.publish(topic, b"2", 1).wait_for_publish(10)
    topics = [heard.get(timeout=10) for _ in range(2)]
    assert [(each.topic, each.payload) for each in topics] == [("old", b"1"), ("new", b"2")]
    pass_time(edge, 700)
    assert json.loads(gone.get(timeout=10).payload)["disconnectReason"] == "AUTH_ERROR"
    device.close()


async def settle(edge):
    """Wait until the broker has taken the authorizer's answer."""
    await asyncio.gather(*edge.iot.broker._tasks)


@pytest.mark.parametrize("caching", [False, True])
def test_an_http_connection_keeps_an_answer_when_the_authorizer_allows_it(edge, caching):
    asked = answering(edge, [yes("web", refreshAfterInSeconds=300)], enableCachingForHttp=caching)
    context = ssl.create_default_context(cafile=str(edge.iot.authority.ca_path))
    connection = http.client.HTTPSConnection("localhost", edge.iot.https_port, context=context, timeout=10)
    for topic, status in (("web", 200), ("web", 200), ("other", 403)):
        connection.request("POST", f"/topics/{topic}?qos=1", b"1", {NAME: "a"})
        response = connection.getresponse()
        body = json.loads(response.read())
        assert (response.status, set(body)) == (status, {"message", "traceId"})
    connection.close()
    assert asked.qsize() == (1 if caching else 3)


@pytest.mark.parametrize(
    "answer",
    [
        {"isAuthenticated": True},
        yes("a", principalId="not-alphanumeric"),
        yes("a", principalId="x" * 129),
        yes("a", policyDocuments=[policy("a")] * 11),
        yes("a", policyDocuments=[policy("x" * 2048)]),
        yes("a", policyDocuments=["{"]),
        yes("a", disconnectAfterInSeconds="soon"),
    ],
)
def test_answers_that_break_the_rules_let_nobody_in(edge, answer):
    answering(edge, [answer])
    with pytest.raises(ClientError) as caught:
        edge.client().test_invoke_authorizer(authorizerName="a", token="t")
    assert caught.value.response["Error"]["Code"] == "InvalidResponseException"
    device = Device(edge, "c", username=f"u?{NAME}=a", password="x", alpn="mqtt")
    assert device.connect() == "Not authorized"
    device.close()


def test_a_token_with_a_wrong_signature_is_not_given_to_the_function(edge):
    public, signature = signing_pair()
    signed = {"signingDisabled": False, "tokenKeyName": "MyToken", "tokenSigningPublicKeys": {"k": public}}
    asked = answering(edge, [yes("a", refreshAfterInSeconds=300, disconnectAfterInSeconds=600)], **signed)
    call = edge.client().test_invoke_authorizer
    given = {"authorizerName": "a", "token": "tok/en+1"}
    answer = call(**given, tokenSignature=signature)
    assert (answer["isAuthenticated"], answer["refreshAfterInSeconds"], asked.qsize()) == (True, 300, 1)
    assert json.loads(answer["policyDocuments"][0]) == policy("a")
    with pytest.raises(ClientError) as caught:
        call(**given, tokenSignature="AAAA")
    assert caught.value.response["Error"]["Code"] == "InvalidRequestException"
    assert asked.qsize() == 1
