"""EchoTestRPC: the test service that awsiotsdk's own RPC tests expect on TCP port 8033, on our event-stream server.

Run it with `python tests/greengrass/echo_service.py [PORT]`, then the SDK's tests with EVENTSTREAM_ECHO_TEST=1.
A client is admitted when its `client-name` header begins with `accepted.`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence

from foreshore.errors import AwsError
from foreshore.greengrass.eventstream import Header
from foreshore.greengrass.ipc.operation import Call, Operation, Reply
from foreshore.greengrass.server import Api, Server

CUSTOMERS = [{"id": 1, "firstName": "Ada", "lastName": "Fore"}]
PRODUCTS = {"one": {"name": "shore", "price": 1.5}}


def echo(call: Call) -> Reply:
    return call.request


def echo_stream(call: Call) -> Reply:
    call.on_event(call.send)
    return {}


def _fail(event: object) -> None:
    raise AwsError("ServiceError", "as asked")


def fail(call: Call) -> Reply:
    raise AwsError("ServiceError", "as asked")


def fail_stream(call: Call) -> Reply:
    call.on_event(_fail)
    return {}


STREAM = {"event": "EchoStreamingMessage", "response": "EchoStreamingResponse"}
API = Api(
    "awstest#EchoTestRPC",
    "awstest#",
    {
        operation.name: operation
        for operation in (
            Operation("EchoMessage", echo, {}),
            Operation("EchoStreamMessages", echo_stream, {}, **STREAM),
            Operation("CauseServiceError", fail, {}),
            Operation("CauseStreamServiceToError", fail_stream, {}, **STREAM),
            Operation("GetAllCustomers", lambda call: {"customers": CUSTOMERS}, {}),
            Operation("GetAllProducts", lambda call: {"products": PRODUCTS}, {}),
        )
    },
    frozenset({"ServiceError"}),
    "ServiceError",
)


def authenticate(headers: Mapping[str, object], payload: bytes) -> tuple[str, Sequence[Header]] | None:
    name = headers.get("client-name")
    return (name, ()) if isinstance(name, str) and name.startswith("accepted.") else None


async def main(port: int) -> None:
    server = Server(API, None, authenticate)
    print(await server.start_tcp("127.0.0.1", port), flush=True)
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        await server.stop()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 8033))
