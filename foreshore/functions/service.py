"""The Lambda room's shell: functions by name, the Invoke seam, the Lambda API and HTTP APIs on the AWS endpoint.

Functions from templates are made anew at each start; functions made through the API, with their code, and accepted
asynchronous events are kept in `<state>/lambda.db` and `<state>/lambda/`.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import orjson

from foreshore.errors import AwsError, NotEmulated
from foreshore.functions import outcomes
from foreshore.functions.async_invokes import AsyncInvokes
from foreshore.functions.aws import AwsServices
from foreshore.functions.environments import Invocation
from foreshore.functions.event_sources import EventSources
from foreshore.functions.http_api import HttpApi
from foreshore.functions.invocations import Host, Pool, Usage, new_uuid, release
from foreshore.functions.lambda_api import LambdaApi
from foreshore.functions.registry import Alias, Function, Registry, Version, sha256_text
from foreshore.functions.spec import MAX_ASYNC_PAYLOAD, MAX_SYNC_PAYLOAD, FunctionSpec
from foreshore.functions.store import FunctionStore
from foreshore.http import Request, Response
from foreshore.seams import EmitLog, EmitSpan, InvocationType, InvokeResult, LogLine, from_amzn_trace_id

API_LIMIT_S = 30.0

_random = random.Random(random.SystemRandom().getrandbits(128))


class Functions:
    """Lambda for one account and region.

    `environment` gives the variables that point workers' SDKs at this edge. `time_scale` multiplies AWS's waits
    (retries of asynchronous events, batching windows): 1.0 is AWS's own pace.
    """

    def __init__(
        self,
        *,
        state: Path,
        region: str,
        account: str,
        environment: Callable[[], dict[str, str]],
        span: EmitSpan,
        log: EmitLog,
        run_folder: Path,
        client: Literal["thin", "awslambdaric"] = "thin",
        time_scale: float = 1.0,
        fork: bool | None = None,
        freeze_after_s: float | None = None,
        max_environments: int = 64,
    ) -> None:
        options: dict[str, Any] = {"max_environments": max_environments}
        if fork is not None:
            options["fork"] = fork
        if freeze_after_s is not None:
            options["freeze_after_s"] = freeze_after_s
        self.registry = Registry(region, account)
        self.log = log
        self.environment = environment
        self.host = Host(
            region=region, outer=environment, span=span, log=log, run_folder=run_folder, client=client, **options
        )
        self.store = FunctionStore(state)
        self.pools: dict[tuple[str, str], Pool] = {}
        self.usages: dict[str, Usage] = {}
        self.http_apis: dict[str, HttpApi] = {}
        self.aws = AwsServices(region, account, environment)
        self.async_invokes = AsyncInvokes(self, time_scale)
        self.event_sources = EventSources(self, time_scale)
        self.api = LambdaApi(self)
        self._reaper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Bring back what was kept, and go on with events that were accepted."""
        if self._reaper is not None:
            return
        self.host.start()
        for function in self.store.load_functions():
            self.registry.functions.setdefault(function.name, function)
            for qualifier, config in function.url_configs.items():
                self.make_url(function.name, qualifier, config.get("Cors"))
        self._reaper = asyncio.ensure_future(self._reap())
        await self.async_invokes.start()
        await self.event_sources.start()

    async def stop(self) -> None:
        """End pollers, retries and every worker; a second call does nothing."""
        if self._reaper is None:
            return
        self._reaper.cancel()
        self._reaper = None
        await self.event_sources.stop()
        await self.async_invokes.stop()
        for pool in self.pools.values():
            pool.close()
        await self.host.stop()
        await self.aws.close()
        self.store.close()

    async def _reap(self) -> None:
        while True:
            await asyncio.sleep(60.0)
            self.host.reap_idle()

    # Functions

    def create(self, spec: FunctionSpec) -> str:
        """Make or replace a function (as a template does). Gives its ARN. Raises UserError for missing code."""
        if spec.inline_source is not None:
            spec = replace(spec, code=self.store.write_inline(spec.name, spec.inline_source))
        digest = sha256_text(str(spec.code).encode())
        version = Version(spec, time.time(), new_uuid(), digest, 0)
        function = self.registry.functions.get(spec.name)
        if function is None or not function.is_from_template:
            function = Function(spec.name, version, is_from_template=True)
            self.registry.functions[spec.name] = function
        function.latest = version
        function.tags = dict(spec.tags)
        self.set_reserved(function, spec.reserved_concurrency)
        self.drop_pools(spec.name)
        return self.registry.arn(spec.name)

    def publish_version(self, name: str) -> str:
        """Publish $LATEST (as a template's AWS::Lambda::Version does). Gives the number."""
        function = self.registry.get(self.registry.name_of(name))
        return self.registry.publish(function, time.time(), new_uuid()).spec.version

    def put_alias(self, name: str, alias: str, version: str, extra: Mapping[str, float] | None = None) -> str:
        """Make or move an alias; `extra` is one more version with the share of calls it gets. Gives its ARN."""
        function = self.registry.get(self.registry.name_of(name))
        other, weight = next(iter((extra or {}).items()), ("", 0.0))
        function.aliases[alias] = Alias(alias, version, extra_version=other, extra_weight=weight, revision=new_uuid())
        return self.registry.arn(function.name, alias)

    async def create_event_source_mapping(self, properties: dict[str, Any]) -> str:
        """Make a mapping from the properties of an AWS::Lambda::EventSourceMapping. Gives its UUID."""
        return await self.event_sources.create(properties)

    def set_reserved(self, function: Function, reserved: int | None) -> None:
        """Set or lift a function's reserved concurrency."""
        function.reserved_concurrency = reserved
        self.usage(function.name).reserved = reserved

    def usage(self, name: str) -> Usage:
        """The concurrency and the counters of a function."""
        usage = self.usages.get(name)
        if usage is None:
            usage = self.usages[name] = Usage()
            function = self.registry.functions.get(name)
            usage.reserved = function.reserved_concurrency if function is not None else None
        return usage

    def drop_pools(self, name: str) -> None:
        """Let the environments of a function go: its settings or code changed, or it is deleted."""
        for key in [key for key in self.pools if key[0] == name]:
            self.pools.pop(key).close()

    def stats(self) -> dict[str, dict[str, Any]]:
        """Counters by function, as the scheduler saw them; `pending` is what is accepted and not finished."""
        found: dict[str, dict[str, Any]] = {}
        for name in {**self.registry.functions, **self.usages}:
            usage = self.usage(name)
            environments = [each for key, pool in self.pools.items() if key[0] == name for each in pool.environments]
            found[name] = {
                **usage.counters.as_dict(),
                "pending": usage.in_flight + usage.counters.async_pending,
                "environments": len(environments),
                "workers": [each.worker.pid for each in environments if each.worker is not None],
            }
        return found

    # Invoking

    async def invoke(
        self,
        function: str,
        payload: bytes,
        *,
        invocation_type: InvocationType = "RequestResponse",
        client_context: bytes | None = None,
        traceparent: str | None = None,
        qualifier: str = "",
    ) -> InvokeResult:
        """The Invoke seam. Raises AwsError: ResourceNotFoundException, TooManyRequestsException, …"""
        name = self.registry.name_of(function, qualifier)
        chance = _random.random() if name.qualifier else 1.0
        found, version = self.registry.resolve(name, chance)
        payload = self.checked(payload, invocation_type)
        if invocation_type == "DryRun":
            return InvokeResult(b"", status=204, executed_version=version.spec.version)
        arn = self.registry.arn(name.name, name.qualifier)
        if invocation_type == "Event":
            request_id = self.async_invokes.accept(found.name, name.qualifier, payload, client_context, traceparent)
            return InvokeResult(b"", status=202, executed_version=version.spec.version, request_id=request_id)
        return await self.run(found, version, payload, arn, client_context=client_context, traceparent=traceparent)

    def checked(self, payload: bytes, invocation_type: InvocationType) -> bytes:
        """The payload to run, `{}` for an empty one. Raises AwsError for one that is too large or not JSON."""
        limit = MAX_ASYNC_PAYLOAD if invocation_type == "Event" else MAX_SYNC_PAYLOAD
        if len(payload) > limit:
            raise outcomes.too_large(limit)
        return check_json(payload)

    def run(
        self,
        function: Function,
        version: Version,
        payload: bytes,
        arn: str,
        *,
        client_context: bytes | None = None,
        traceparent: str | None = None,
        request_id: str = "",
        sink: Callable[[bytes], None] | None = None,
    ) -> asyncio.Future[InvokeResult]:
        """Run one invocation of a version; the future gives its result. Raises AwsError when it is throttled."""
        done: asyncio.Future[InvokeResult] = asyncio.get_running_loop().create_future()
        invocation = Invocation(request_id or new_uuid(), payload, arn, done)
        invocation.sink = sink
        if client_context:
            invocation.client_context = client_context.decode("utf-8", "replace")
        pool = self.pool(function, version)
        pool.submit(invocation, traceparent)
        done.add_done_callback(release(pool.usage))
        return done

    def pool(self, function: Function, version: Version) -> Pool:
        """The environments of a version."""
        key = (function.name, version.spec.version)
        pool = self.pools.get(key)
        if pool is None:
            pool = self.pools[key] = Pool(self.host, version.spec, self.usage(function.name))
        return pool

    def warn(self, source: str, text: str) -> None:
        """Say what went wrong outside any invocation."""
        self.log(LogLine(time.time_ns(), "lambda", source, "WARNING", "", text))

    # HTTP

    async def handle(self, request: Request) -> Response:
        """The Lambda API."""
        return await self.api.handle(request)

    def add_http_api(
        self,
        logical_id: str,
        api_id: str,
        routes: Sequence[tuple[str, str, str, str]],
        *,
        cors: dict[str, Any] | None = None,
        stage: str = "$default",
    ) -> HttpApi:
        """Make an HTTP API. A route is (method or ANY, path or $default, function ARN, payload format version)."""
        api = HttpApi(logical_id, api_id, routes, region=self.registry.region, account=self.registry.account, cors=cors,
                      stage=stage)  # fmt: skip
        self.http_apis[api_id] = api
        return api

    def make_url(self, name: str, qualifier: str, cors: dict[str, Any] | None = None) -> str:
        """Make a function URL; its id is stable, so a URL that was handed out stays right. Gives the URL."""
        url_id = url_id_of(self.registry.arn(name, qualifier))
        routes = [("ANY", "$default", self.registry.arn(name, qualifier), "2.0")]
        api = HttpApi(
            name, url_id, routes, region=self.registry.region, account=self.registry.account, cors=cors, kind="url"
        )
        self.http_apis[url_id] = api
        return f"https://{api.domain}/"

    def remove_url(self, name: str, qualifier: str) -> None:
        """Take a function URL away."""
        self.http_apis.pop(url_id_of(self.registry.arn(name, qualifier)), None)

    async def handle_http_api(self, api_id: str, stage: str, path: str, request: Request) -> Response:
        """Answer a request to an HTTP API: route, invoke, translate."""
        api = self.http_apis.get(api_id)
        if api is None:
            return Response(404, [(b"Content-Type", b"application/json")], b'{"message":"Not Found"}')
        early = api.answer_early(request, path)
        if early is not None:
            return early
        match = api.match(request.method, path)
        if match is None:
            return api.finish(
                request, Response(404, [(b"Content-Type", b"application/json")], b'{"message":"Not Found"}')
            )
        event = api.event(match, request, path, stage or api.stage, time.time(), api_request_id())
        trace = request.header("traceparent") or from_amzn_trace_id(request.header("x-amzn-trace-id"))
        try:
            async with asyncio.timeout(API_LIMIT_S if api.kind == "http" else None):
                result = await self.invoke(match.function, orjson.dumps(event), traceparent=trace)
        except TimeoutError:
            # The function goes on; its caller does not hear of it any more.
            late = Response(503, [(b"Content-Type", b"application/json")], b'{"message":"Service Unavailable"}')
            return api.finish(request, late)
        except NotEmulated:
            raise
        except AwsError as error:
            self.warn(api.logical_id, f"{request.method} {path}: {error.code}: {error.message}")
            status = 429 if error.code == "TooManyRequestsException" else 500
            text = b'{"message":"Too Many Requests"}' if status == 429 else b'{"message":"Internal Server Error"}'
            return api.finish(request, Response(status, [(b"Content-Type", b"application/json")], text))
        return api.finish(request, api.response(match, result))


def check_json(payload: bytes) -> bytes:
    """The payload, `{}` when it is empty. Raises AwsError InvalidRequestContentException."""
    if not payload:
        return b"{}"
    try:
        orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise outcomes.not_json(str(error)) from None
    return payload


def url_id_of(arn: str) -> str:
    """The 32 letters and digits of a function URL's host name."""
    number = int.from_bytes(hashlib.sha256(arn.encode()).digest(), "big")
    letters = "abcdefghijklmnopqrstuvwxyz234567"
    return "".join(letters[(number >> (5 * index)) & 31] for index in range(32))


def api_request_id() -> str:
    """The id of an HTTP API request, in the form of AWS's (16 characters of base64 ending in `=`)."""
    return hashlib.sha256(_random.getrandbits(96).to_bytes(12, "big")).hexdigest()[:15] + "="
