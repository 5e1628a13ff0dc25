"""The composition: every room's shell, made and joined here and nowhere else.

`App.start` brings the local AWS edge up in dependency order and gives the endpoints object of the ready line;
`App.stop` takes it down in the other order. Rooms meet only through the callables of `seams.py`.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import functools
import mimetypes
import os
import shutil
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TextIO
from urllib.parse import quote

import orjson

from foreshore.children import reap_strays
from foreshore.cloud.backend import Backend
from foreshore.cloud.endpoint import Endpoint
from foreshore.cloud.routing import Target
from foreshore.cloud.sam import expand
from foreshore.cloud.stack import Stack
from foreshore.errors import UserError
from foreshore.http import Request, Response
from foreshore.ports import Ports, taken
from foreshore.project import CoreProfile, Project
from foreshore.provision import Provisioner, Rooms
from foreshore.seams import LogLine
from foreshore.traces.recorder import Recorder

if TYPE_CHECKING:
    from foreshore.cloudfront.server import Distribution
    from foreshore.core_fleet import CoreFleet
    from foreshore.functions.service import Functions
    from foreshore.greengrass.cloud.lambda_source import LambdaCode
    from foreshore.iot.service import IotCore

HOST = "127.0.0.1"
MIN_FREE = 16_000_000
ROOMS = ("iot", "greengrass", "lambda", "cloudfront")


@dataclass(slots=True)
class Options:
    """What the command line chooses. `port_base` None: the default ports; 0: free ones; N: N and up."""

    folder: Path
    home: Path | None = None
    host: str = HOST
    port_base: int | None = None
    only: tuple[str, ...] = ROOMS
    backend: str = ""
    ephemeral: bool = False
    templates: tuple[Path, ...] = ()
    recipes: Path | None = None
    mqtt_profile: Literal["aws", "standard"] = "aws"
    plain_policy: Path | None = None
    rate_limits: bool = True
    check_roles: bool = False
    strict_live: bool = False
    runtime_client: Literal["thin", "awslambdaric"] = "thin"
    core_profile: CoreProfile = "classic"
    cores: tuple[str, ...] = ()
    port_443: bool = False

    def unused(self) -> list[str]:
        """What is asked of rooms that are left out."""
        asked = {
            "--core": ("greengrass", bool(self.cores)),
            "--core-profile": ("greengrass", self.core_profile != "classic"),
            "--recipes": ("greengrass", self.recipes is not None),
            "--mqtt": ("iot", self.mqtt_profile != "aws"),
            "--plain-policy": ("iot", self.plain_policy is not None),
            "--check-roles": ("iot", self.check_roles),
            "--strict-live": ("iot", self.strict_live),
            "--port-443": ("iot", self.port_443),
            "--runtime-client": ("lambda", self.runtime_client != "thin"),
        }
        return [
            f"{option} has no effect without the room {room}: add it to --only"
            for option, (room, is_asked) in asked.items()
            if is_asked and room not in self.only
        ]


class Surface(Protocol):
    """A listener above the rooms, such as the console."""

    async def start(self, host: str, port: int, /) -> int: ...

    async def stop(self) -> None: ...


Status = Callable[[], dict[str, Any]]
MakeSurface = Callable[[Recorder, Status, Status], Surface]


class App:
    """The running edge of one project. `console(recorder, endpoints, status)` makes the surface above it, if any."""

    def __init__(self, options: Options, console: MakeSurface | None = None) -> None:
        self.options = options
        self.project = Project.read(options.folder, options.templates, options.recipes, options.cores)
        self.ports = Ports(options.port_base)
        self.home = options.home or self.project.home
        self.state = self.home / "state"
        self.certs = self.home / "certs"
        self.run_folder = self.home / "run"
        self.endpoints: dict[str, Any] = {}
        self.stacks: dict[str, Stack] = {}
        self.timings: dict[str, float] = {}
        self.notes: list[str] = []
        self.recorder: Recorder
        self.backend: Backend
        self.endpoint: Endpoint
        self.rooms = Rooms(None, None)
        self.functions: Functions | None = None
        self.iot: IotCore | None = None
        self.fleet: CoreFleet | None = None
        self.distributions: dict[str, Distribution] = {}
        self._make_console = console
        self._stops: list[Callable[[], Awaitable[None]]] = []
        self._lock: TextIO | None = None
        self._origins: dict[str, str] = {}

    # Start and stop

    async def start(self) -> dict[str, Any]:
        """Bring everything up. Raises UserError, with everything that had started stopped again."""
        begun = time.perf_counter()
        try:
            await self._start()
        except OSError as error:
            await self.stop()
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                raise self._unusable(str(error.strerror)) from error
            raise
        except BaseException:
            await self.stop()
            raise
        self.timings["ready"] = time.perf_counter() - begun
        return self.endpoints

    async def _start(self) -> None:
        self._open_folder()
        self.recorder = Recorder(self.state / "traces.db")
        self._stops.append(self._close_recorder)
        for text in self.options.unused():
            self.note(text)
        self.backend = Backend(
            url=self.options.backend, state=self.state, run_folder=self.run_folder, region=self.project.region,
            account=self.project.account, ephemeral=self.options.ephemeral, log=self.recorder.log,
        )  # fmt: skip
        self.endpoint = Endpoint(self.backend, self.recorder.log, self.project.region)
        self._stops.append(self.backend.stop)
        # The slow starts that need nothing of one another.
        await self._together(
            self._timed("backend", self.backend.start()),
            self._timed("templates", self._read_templates()),
            self._timed("rooms", self._start_rooms()),
        )
        self.backend.on_restart = self._deploy_stacks_again
        await self._timed("stacks", self._deploy_stacks())
        await self._timed("uploads", self._upload_sites())
        await self._timed("distributions", self._start_distributions())
        if "greengrass" in self.options.only and self.project.cores:
            await self._timed("cores", self._start_cores())
        await self._timed("console", self._start_console())
        self._write_endpoints()

    @staticmethod
    async def _together(*steps: Awaitable[None]) -> None:
        """Run steps at once; when one fails the others are finished first, so that `stop` sees what they started."""
        for result in await asyncio.gather(*steps, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    async def _timed(self, name: str, step: Awaitable[None]) -> None:
        begun = time.perf_counter()
        await step
        self.timings[name] = time.perf_counter() - begun

    async def stop(self) -> None:
        """Take everything down, in the other order; a second call does nothing."""
        if self._lock is not None:
            (self.home / "endpoints.json").unlink(missing_ok=True)
        while self._stops:
            step = self._stops.pop()
            try:
                await step()
            except Exception as error:
                self.recorder.say("foreshore", f"{step} failed while stopping: {error}", level="ERROR")
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    async def _close_recorder(self) -> None:
        await asyncio.to_thread(self.recorder.close)

    def _open_folder(self) -> None:
        try:
            self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.options.ephemeral:
                self._lock_folder()
                for name in ("state", "cores", "certs/cores", "devices"):
                    shutil.rmtree(self.home / name, ignore_errors=True)
            self.state.mkdir(mode=0o700, exist_ok=True)
            self._lock_folder()
        except OSError as error:
            raise self._unusable(str(error.strerror)) from error
        free = shutil.disk_usage(self.home).free
        if free < MIN_FREE:
            raise self._unusable(f"the disk is full ({free / 1e6:.1f} MB free, {MIN_FREE / 1e6:.0f} MB needed)")
        reap_strays(self.run_folder)

    def _unusable(self, why: str) -> UserError:
        return UserError(
            f"can't keep state: {why}", code="state-unusable", where=str(self.home),
            mend="free some space, make the folder writable, or choose another with -C DIR",
        )  # fmt: skip

    def _lock_folder(self) -> None:
        if self._lock is not None:
            return
        self._lock = (self.home / "lock").open("a+")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.seek(0)
            holder = self._lock.read().strip()
            self._lock.close()
            self._lock = None
            raise UserError(
                f"another foreshore (pid {holder}) uses this folder", code="folder-in-use", where=str(self.home),
                mend="stop it first, or choose another folder with -C DIR",
            ) from error  # fmt: skip
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()

    async def _listen(self, name: str, what: str, start: Callable[[int], Awaitable[int]]) -> int:
        port = self.ports.take(name)
        try:
            return await start(port)
        except OSError as error:
            raise taken(port, what, error) from error

    # Rooms

    async def _start_rooms(self) -> None:
        host = self.options.host
        self.endpoint.mount_admin("status", self._status_page)
        self._stops.append(self.endpoint.stop)
        await self._listen("aws", "the AWS endpoint", lambda port: self.endpoint.start(host, port))
        self.endpoints = {
            "ready": True,
            "region": self.project.region,
            "account": self.project.account,
            "state": _relative(self.state, self.project.folder),
            "aws": f"http://{host}:{self.endpoint.port}",
        }
        if "lambda" in self.options.only:
            await self._start_functions()
        if "iot" in self.options.only:
            await self._start_iot()
        self.rooms = Rooms(self.functions, self.iot)
        # The backend would answer these without the effect AWS has.
        self.endpoint.refuse("apigateway", "the API Gateway control plane (HttpApi in a template works)")
        self.endpoint.refuse("cloudfront", "the CloudFront control plane (distributions in a template work)")
        if self.iot is not None and "greengrass" in self.options.only:
            self._start_greengrass(self.iot)
        else:
            self.endpoint.refuse("greengrass", "the greengrassv2 control plane without the rooms iot and greengrass")

    def _start_greengrass(self, iot: IotCore) -> None:
        from foreshore.core_fleet import CoreFleet, Surroundings

        around = Surroundings(
            project=self.project, home=self.home, state=self.state, run_folder=self.run_folder, iot=iot,
            recorder=self.recorder, endpoint=self.endpoint, ports=self.ports, host=self.options.host,
            profile=self.options.core_profile, environment=self.client_environment,
            lambda_code=self._lambda_code if self.functions is not None else None,
        )  # fmt: skip
        self.fleet = CoreFleet(around)
        self._stops.append(self.fleet.stop)
        self.fleet.serve()

    def _lambda_code(self, arn: str) -> LambdaCode:
        """A function version as a component is made of it. Raises AwsError ResourceNotFoundException."""
        from foreshore.greengrass.cloud.lambda_source import LambdaCode

        assert self.functions is not None
        registry = self.functions.registry
        spec = registry.resolve(registry.name_of(arn))[1].spec
        return LambdaCode(spec.handler, spec.runtime, spec.code)

    async def _start_functions(self) -> None:
        from foreshore.functions.service import Functions

        self.functions = Functions(
            state=self.state, region=self.project.region, account=self.project.account,
            environment=self.client_environment, span=self.recorder.span, log=self.recorder.log,
            run_folder=self.run_folder, client=self.options.runtime_client,
        )  # fmt: skip
        self._stops.append(self.functions.stop)
        await self.functions.start()
        self.endpoint.mount("lambda", self.functions.handle)
        self.endpoint.mount_target("execute-api", self._execute_api)
        self.endpoint.mount_target("lambda-url", self._execute_api)

    def _set_plain_policy(self, iot: IotCore) -> None:
        """Put clients of the plain MQTT listener under an IoT policy, if there is one for them. Raises UserError."""
        path = self.options.plain_policy
        if path is None:
            return
        from foreshore.iot.policies import parse

        try:
            iot.access.plain_policy = parse(path.read_bytes(), path.name)
        except OSError as error:
            raise UserError(f"can't read the policy: {error.strerror}", code="policy", where=str(path)) from None

    async def _start_iot(self) -> None:
        from foreshore.iot.service import IotCore

        self.iot = IotCore(
            state=self.state, certs=self.certs, region=self.project.region, account=self.project.account,
            span=self.recorder.span, log=self.recorder.log,
            invoke=self.functions.invoke if self.functions is not None else None,
            backend_url=lambda: str(self.endpoints["aws"]), mqtt_profile=self.options.mqtt_profile,
            rate_limits=self.options.rate_limits, check_roles=self.options.check_roles,
            strict_live=self.options.strict_live,
        )  # fmt: skip
        self._stops.append(self.iot.stop)
        self._set_plain_policy(self.iot)
        host, ports = self.options.host, {name: self.ports.take(name) for name in ("mqtt", "mqtts", "https")}
        try:
            await self.iot.start(
                host, mqtt_port=ports["mqtt"], mqtts_port=ports["mqtts"], https_port=ports["https"],
                also_https_port=443 if self.options.port_443 else None,
            )  # fmt: skip
        except PermissionError as error:
            raise UserError(
                f"port {getattr(error, 'port', 443)} may be taken only by root", code="port-forbidden",
                mend="allow it with `sudo sysctl net.ipv4.ip_unprivileged_port_start=443`, or leave out --port-443",
            ) from error  # fmt: skip
        except OSError as error:
            raise taken(getattr(error, "port", 0) or _port_in(error, ports), "IoT Core", error) from error
        self.endpoint.mount("iot", self.iot.handle_iot)
        for name in ("iotdata", "iotdevicegateway"):
            self.endpoint.mount(name, self.iot.handle_iot_data)
        self.endpoint.mount("iot-jobs-data", self.iot.handle_jobs_data)
        self.iot.advisor_port = self.ports.take("advisor")
        self.endpoint.mount("iotdeviceadvisor", self.iot.handle_device_advisor)
        advisor = self.iot.advisor
        self.endpoint.mount_admin("device-advisor", lambda request, target: advisor.page(target.path))
        engine = self.iot.engine
        self.endpoint.mount_admin("rules", lambda request, target: engine.admin(request))
        self.endpoints |= {
            "mqtt": f"{host}:{self.iot.mqtt_port}",
            "mqtts": f"{host}:{self.iot.mqtts_port}",
            "wss": f"{host}:{self.iot.https_port}",
            "iot_https": f"https://{host}:{self.iot.https_port}",
            "ca": _relative(self.certs / "ca.pem", self.project.folder),
        }

    def _execute_api(self, request: Request, target: Target) -> Awaitable[Response]:
        assert self.functions is not None
        return self.functions.handle_http_api(target.resource, target.stage, target.path, request)

    async def _start_cores(self) -> None:
        if self.fleet is None:
            raise UserError("a core needs IoT Core", code="only", mend="add iot to --only")
        await self.fleet.start()
        self.endpoints["cores"] = self.fleet.describe()

    # Templates

    async def _read_templates(self) -> None:
        async def read(name: str, path: Path) -> None:
            parameters = self.project.parameters.get(name.replace("-", "_"), {})
            template = await expand(path, parameters, self.project.region, self.home / "cache")
            self.stacks[name] = Stack(name, path, template, self.project.region, self.project.account)

        await self._together(*(read(name, path) for name, path in self.project.templates.items()))

    async def _deploy_stacks(self) -> None:
        provisioner = Provisioner(self.rooms, self.note)
        for text in self.project.unused({name: stack.template for name, stack in self.stacks.items()}):
            self.note(f"foreshore.toml: {text}")
        outputs: dict[str, Any] = {}
        exports: dict[str, Any] = {}
        for name in self.project.templates:
            stack = self.stacks[name]
            # A parameter without a value of its own takes an earlier stack's output of the same name.
            parameters = {**outputs, **self.project.parameters.get(name.replace("-", "_"), {})}
            await stack.deploy(parameters, provisioner, self.backend, exports)
            outputs |= stack.outputs
            exports |= stack.exports
        base = self.endpoints["aws"]
        self.endpoints["apis"] = {
            logical_id: f"{base}/_aws/execute-api/{api_id}/$default" for logical_id, api_id in self.rooms.apis.items()
        }

    async def _deploy_stacks_again(self) -> None:
        """After a crash of the backend: its resources and uploads anew (ours have not moved)."""
        for name in self.project.templates:
            await self.stacks[name].deploy_backend_again(self.backend)
        await self._upload_sites()

    async def _upload_sites(self) -> None:
        for logical_id, folder in self.project.uploads.items():
            bucket = next(
                (s.bucket_name(logical_id) for s in self.stacks.values() if logical_id in s.template["Resources"]), None
            )
            if bucket is None:
                continue
            for path in await asyncio.to_thread(_files_under, folder):
                key = path.relative_to(folder).as_posix()
                kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
                credential = f"foreshore/20200101/{self.project.region}/s3/aws4_request"
                headers = [
                    (b"Host", f"{HOST}:{self.endpoint.port}".encode()),
                    (b"Content-Type", kind.encode()),
                    (b"x-amz-content-sha256", b"UNSIGNED-PAYLOAD"),
                    (
                        b"Authorization",
                        f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders=host, Signature=0".encode(),
                    ),
                ]
                body = await asyncio.to_thread(path.read_bytes)
                answer = await self.backend.forward(Request("PUT", f"/{bucket}/{quote(key)}", headers, body))
                if answer.status >= 300:
                    raise UserError(f"uploading {path} to {bucket} answered {answer.status}", code="upload")

    # CloudFront

    async def _start_distributions(self) -> None:
        self.endpoints["distributions"] = {}
        if "cloudfront" not in self.options.only or not self.rooms.distributions:
            return
        from foreshore.cloudfront.behaviors import without_effect
        from foreshore.cloudfront.server import Distribution

        async def no_function(function: str, payload: bytes, **_: object) -> Any:
            raise UserError("Lambda@Edge needs the lambda room", code="only", mend="add lambda to --only")

        host = self.options.host
        for logical_id, made in self.rooms.distributions.items():
            distribution = Distribution(
                logical_id=logical_id, distribution_id=made["id"], domain_name=made["domain"], config=made["config"],
                policies=self.rooms.edge_policies,
                invoke=self.functions.invoke if self.functions is not None else no_function,
                resolve_origin=self._resolve_origin, span=self.recorder.span, log=self.recorder.log,
            )  # fmt: skip
            self.distributions[logical_id] = distribution
            for what in without_effect(made["config"]):
                self.note(f"distribution {logical_id}: {what} has no effect here")
            self._stops.append(distribution.stop)
            start = functools.partial(distribution.start, host)
            port = await self._listen("distribution", f"the distribution {logical_id}", start)
            self.endpoints["distributions"][logical_id] = f"http://{host}:{port}"
        self.endpoint.mount_admin("cloudfront", self._cloudfront_admin)

    async def _cloudfront_admin(self, request: Request, target: Target) -> Response:
        name = target.path.strip("/").partition("/")[0]
        found = self.distributions.get(name) or next(iter(self.distributions.values()))
        answer = found.admin(request)
        return await answer if isinstance(answer, Awaitable) else answer

    def _resolve_origin(self, domain: str) -> Any:
        """AWS's origin host names to the endpoint on this machine; any other host is used as it is."""
        from foreshore.cloudfront.server import OriginAddress

        if ".execute-api." in domain or ".lambda-url." in domain:
            return OriginAddress(HOST, self.endpoint.port, False, domain)
        bucket, found, _ = domain.partition(".s3")
        if found and domain.endswith(("amazonaws.com", "amazonaws.com.cn")):
            return OriginAddress(
                HOST, self.endpoint.port, False, f"{HOST}:{self.endpoint.port}", path_prefix=f"/{bucket}"
            )
        return OriginAddress(domain, 0, False, domain)

    # What others see

    async def _start_console(self) -> None:
        if self._make_console is None:
            return
        console = self._make_console(self.recorder, lambda: self.endpoints, self.status)
        self._stops.append(console.stop)
        port = await self._listen("console", "the console", lambda p: console.start(self.options.host, p))
        self.endpoints["console"] = f"http://{self.options.host}:{port}"

    def client_environment(self) -> dict[str, str]:
        """The variables that point AWS SDKs, device SDKs and components at this edge."""
        folder = self.project.folder
        environment = {
            "AWS_ENDPOINT_URL": str(self.endpoints["aws"]),
            "AWS_ACCESS_KEY_ID": "foreshore",
            "AWS_SECRET_ACCESS_KEY": "foreshore",
            "AWS_REGION": self.project.region,
            "AWS_DEFAULT_REGION": self.project.region,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_S3_USE_PATH_STYLE": "1",
            "FORESHORE_ENDPOINTS": str(self.home / "endpoints.json"),
        }
        for name in ("mqtt", "mqtts", "wss", "iot_https", "console"):
            if name in self.endpoints:
                environment[f"FORESHORE_{name.upper()}"] = str(self.endpoints[name])
        if "ca" in self.endpoints:
            environment["FORESHORE_CA"] = str(folder / self.endpoints["ca"])
        return environment

    def status(self) -> dict[str, Any]:
        """Counters, each as the stage itself counted."""
        status: dict[str, Any] = {"backend": {"up": self.backend.up.is_set(), "restarts": self.backend.restarts}}
        if self.functions is not None:
            status["functions"] = self.functions.stats()
        if self.iot is not None:
            status["iot"] = self.iot.stats()
            status["rules"] = self.iot.engine.stats()
        status["cores"] = self.fleet.stats() if self.fleet is not None else {}
        status["distributions"] = {name: item.stats() for name, item in self.distributions.items()}
        status["timings"] = self.timings
        status["stacks"] = {name: stack.outputs for name, stack in self.stacks.items()}
        return status

    def _status_page(self, request: Request, target: Target) -> Response:
        return Response(200, [(b"Content-Type", b"application/json")], orjson.dumps(self.status(), default=str))

    def _write_endpoints(self) -> None:
        order = ("ready", "region", "account", "state", "aws", "mqtt", "mqtts", "wss", "iot_https", "ca", "console",
                 "cores", "distributions", "apis")  # fmt: skip
        self.endpoints.setdefault("cores", {})
        self.endpoints = {name: self.endpoints[name] for name in order if name in self.endpoints}
        path = self.home / "endpoints.json"
        partial = path.with_suffix(".part")
        partial.write_bytes(orjson.dumps(self.endpoints))
        partial.replace(path)

    def note(self, text: str) -> None:
        """Something that is accepted and does less than AWS does: logged, and shown by `foreshore dev`."""
        self.notes.append(text)
        self.recorder.log(LogLine(time.time_ns(), "foreshore", "foreshore", "WARN", "", text))


def _files_under(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _relative(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def _port_in(error: OSError, ports: dict[str, int]) -> int:
    """Which of several ports an asyncio bind error names (its text ends with the address)."""
    return next((port for port in ports.values() if port and f"{port})" in str(error)), next(iter(ports.values())))
