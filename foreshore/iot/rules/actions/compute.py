"""The Lambda and Step Functions actions (developer guide, "Lambda", "Step Functions")."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from foreshore.errors import AwsError
from foreshore.iot.rules.actions.call import Call
from foreshore.iot.rules.actions.failures import ActionFailed
from foreshore.iot.rules.values import NotJson, read_json


def _json_payload(call: Call) -> bytes:
    if type(call.value) is bytes:
        try:
            read_json(call.value)
        except NotJson:
            raise ActionFailed("the payload is no JSON, which this action needs: use encode(*, 'base64')") from None
    return call.payload


async def run_lambda(call: Call, parameters: dict[str, Any]) -> None:
    """An asynchronous invocation (type Event) that carries the trace."""
    payload = _json_payload(call)
    arn = parameters["functionArn"]
    if call.world.invoke is None:
        headers = [("X-Amz-Invocation-Type", "Event"), ("Content-Type", "application/json")]
        target = f"/2015-03-31/functions/{quote(arn, safe='')}/invocations"
        await call.world.aws.send("lambda", "POST", target, headers=headers, body=payload)
        return
    try:
        await call.world.invoke(arn, payload, invocation_type="Event", traceparent=call.traceparent)
    except AwsError as error:
        transient = error.status == 429 or error.status >= 500
        raise ActionFailed(f"lambda: {error.code}: {error.message}", transient=transient) from error


async def run_step_functions(call: Call, parameters: dict[str, Any]) -> None:
    """StartExecution of a state machine by name; the execution is the prefix and a UUID."""
    world = call.world
    name = parameters["stateMachineName"]
    body = {
        "stateMachineArn": f"arn:aws:states:{world.region}:{world.account}:stateMachine:{name}",
        "name": parameters.get("executionNamePrefix", "") + world.uuid(),
        "input": _json_payload(call).decode(),
    }
    await world.aws.json("states", "AWSStepFunctions.StartExecution", body, "1.0")
