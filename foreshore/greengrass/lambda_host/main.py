"""`python3 lambda_host.pyz --handler main.handler`: connect, read the parameters, import the handler, run it.

The environment is that of any Greengrass component (SVCUID and the socket's path). With FORESHORE_TRACE=1, which only
Foreshore's core sets, trace contexts are carried along.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .calls import Calls
from .host import Host
from .inbox import Inbox
from .loading import HandlerMissing, configure_logging, load_handler
from .outbox import Outbox
from .parameters import PUB_SUB, BadParameters, Parameters, read_parameters
from .services import Services
from .wire import Disconnected, OnLost, Refused, TraceSlot, Wire

if TYPE_CHECKING:
    from .pool import Pool

log = logging.getLogger("foreshore_lambda_host")

SOCKET = "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT"
EXIT_USAGE = 2
REQUEST_TIMEOUT_S = 30.0
V1_ENVIRONMENT = {
    "SHADOW_FUNCTION_ARN": "arn:aws:lambda:::function:GGShadowService",
    "ROUTER_FUNCTION_ARN": "arn:aws:lambda:::function:GGRouter",
    "SECRETS_MANAGER_FUNCTION_ARN": "arn:aws:lambda:::function:GGSecretManager:1",
    "GGC_MAX_INTERFACE_VERSION": "1.5",
    "AWS_GREENGRASS_LAMBDA_RUNTIME": "python",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the host until it is told to stop; give the exit code."""
    options = _parse(arguments)
    configure_logging(options.log_level)
    try:
        return run(options)
    except (BadParameters, Disconnected, Refused, TimeoutError, HandlerMissing) as error:
        log.error("%s", error)
        return EXIT_USAGE if isinstance(error, (BadParameters, HandlerMissing)) else 1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="lambda_host", description="Run a Lambda handler as a Greengrass component.")
    parser.add_argument("--handler", required=True, metavar="MODULE.FUNCTION")
    parser.add_argument("--code", metavar="DIR", default=os.path.dirname(os.path.abspath(sys.argv[0])))  # noqa: PTH100, PTH120
    parser.add_argument("--packages", metavar="DIR", default="", help="folder of pip-installed requirements")
    parser.add_argument("--client", choices=("awsiotsdk", "slim"), default="awsiotsdk")
    parser.add_argument("--name", default=Path.cwd().name, help="function name (default: the component's)")
    parser.add_argument("--log-level", default=os.environ.get("LOG_LEVEL", "INFO"))
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> int:
    """Connect, prepare, subscribe, and handle messages until the end."""
    paths = [options.code, *([options.packages] if options.packages else [])]
    sys.path[:0] = paths  # awsiotsdk may be among the packages
    ending = _Ending()
    trace = TraceSlot()
    wire = connect(options.client, ending.on_lost, trace if os.environ.get("FORESHORE_TRACE") == "1" else None)
    try:
        configuration = wire.call("GetConfiguration", {}, REQUEST_TIMEOUT_S).get("value") or {}
        parameters = read_parameters(configuration)
        if parameters.exec_args:
            log.warning("execArgs have no effect: the handler is called with event and context only")
        ending.inbox = inbox = Inbox(parameters.max_queue_size)
        runner = prepare(options, parameters, paths, wire, inbox, trace)
        signal.signal(signal.SIGTERM, lambda *_: inbox.stop())
        signal.signal(signal.SIGINT, lambda *_: inbox.stop())
        subscribe(wire, parameters, inbox)
        log.info("running %s with %d event sources", options.handler, len(parameters.event_sources))
        return runner.run()
    finally:
        wire.close()


def prepare(
    options: argparse.Namespace, parameters: Parameters, paths: list[str], wire: Wire, inbox: Inbox, trace: TraceSlot
) -> Host | Pool:
    """What runs the handler: one pinned instance in this process, or a pool of processes."""
    arn = parameters.lambda_arn or arn_of(options.name)
    environment = lambda_environment(parameters, arn, options.handler)
    outbox = Outbox(wire, parameters.publish_window, REQUEST_TIMEOUT_S)
    shim = importlib.import_module("greengrass_ipc_python_sdk.ipc_client")

    def call(operation: str, request: dict[str, Any]) -> dict[str, Any]:
        return wire.call(operation, request, parameters.status_timeout_s)

    calls = Calls(environment["AWS_LAMBDA_FUNCTION_NAME"], wire, outbox, inbox)
    services = Services(parameters.routes, outbox, call, shim.IPCException, calls.invoke)
    if parameters.invocable:
        calls.accept_invocations()
    if not parameters.pinned:
        from .pool import Pool, own_argv  # what it imports costs a pinned function memory
        from .setup import Setup

        setup = Setup(
            options.handler, arn, parameters.encoding, parameters.timeout_s, environment, paths, options.log_level
        )
        limits = (parameters.max_instances, parameters.max_idle_s)
        return Pool(own_argv(), setup, limits, inbox, outbox, calls, services.invoke, trace)
    os.environ.update(environment)
    shim.install(services.invoke)
    return Host(load_handler(options.handler), arn, parameters, inbox, outbox, calls, trace)


class _Ending:
    """Tells the inbox, once there is one, that the connection is gone."""

    inbox: Inbox | None = None

    def on_lost(self, reason: str) -> None:
        if self.inbox is not None:
            self.inbox.lose(reason)


def connect(client: str, on_lost: OnLost, trace: TraceSlot | None) -> Wire:
    """Connect with the chosen client. Raises Disconnected, or BadParameters outside Greengrass."""
    try:
        socket, token = os.environ[SOCKET], os.environ["SVCUID"]
    except KeyError as error:
        raise BadParameters(f"{error.args[0]} is not set: this program runs as a Greengrass component") from None
    if client == "slim":
        from .wire_slim import connect as connect_slim

        return connect_slim(socket, token, on_lost, trace)
    from .wire_sdk import connect as connect_sdk

    return connect_sdk(socket, token, on_lost, trace)


def arn_of(name: str) -> str:
    """The ARN of a component without a `lambdaArn`. Version 1: a Lambda component can't be of $LATEST."""
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or ""
    return f"arn:aws:lambda:{region}:000000000000:function:{name}:1"


def lambda_environment(parameters: Parameters, arn: str, handler: str) -> dict[str, str]:
    """The variables of Greengrass's Lambda runtime, then the function's own. greengrasssdk reads them at its import."""
    return {
        **V1_ENVIRONMENT,
        "MY_FUNCTION_ARN": arn,
        "AWS_GREENGRASS_LAMBDA_ARN": arn,
        "AWS_GREENGRASS_LAMBDA_FUNCTION_HANDLER": handler,
        "AWS_GREENGRASS_LAMBDA_TIMEOUT": str(int(parameters.timeout_s * 1000)),
        "ENCODING_TYPE": parameters.encoding,
        "AWS_LAMBDA_FUNCTION_NAME": arn.split(":")[6] if arn.count(":") >= 6 else arn,
        "_HANDLER": handler,
        **parameters.environment,
    }


def subscribe(wire: Wire, parameters: Parameters, inbox: Inbox) -> None:
    """Subscribe to every event source. Raises Refused, Disconnected, TimeoutError."""
    for source in parameters.event_sources:
        if source.type == PUB_SUB:
            wire.subscribe(source.topic, inbox.accept, REQUEST_TIMEOUT_S)
        else:
            wire.subscribe_cloud(source.topic, source.qos, inbox.accept, REQUEST_TIMEOUT_S)
