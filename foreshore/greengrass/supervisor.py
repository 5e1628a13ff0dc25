"""Shell: the components of one core device: what is deployed, its processes, its deployments, its admin interface.

`Supervisor` implements `components.Components` for the IPC operations. A deployment is planned by `deployments.py`
over what `resolution.py` chose, and carried out here; `runner.py` holds one component's processes each. What is
deployed is kept in `<root>/deployments/state.json` and comes back with `start()`.
"""

from __future__ import annotations

import asyncio
import os
import platform as platform_module
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from foreshore.children import reap_strays
from foreshore.errors import ForeshoreError, UserError
from foreshore.greengrass.artifacts import ArtifactStore
from foreshore.greengrass.components import (
    ComponentNotFound,
    ComponentsFactory,
    ComponentStatus,
    ComponentUpdates,
    ConfigurationValidations,
    CoreContext,
    DeploymentNotFound,
    DeploymentStatus,
    LocalDeploymentRequest,
    Profile,
    Tokens,
)
from foreshore.greengrass.configuration import Configuration, lite_scalars
from foreshore.greengrass.deployments import (
    LOCAL_GROUP,
    ConfigurationUpdate,
    Definition,
    DeploymentDocument,
    Plan,
    local_roots,
    local_update,
    plan,
    read_document,
)
from foreshore.greengrass.layout import FOLDERS, Layout
from foreshore.greengrass.lifecycle import Changed, DependenciesReady, Reported, Request, State, bootstrap_outcome
from foreshore.greengrass.recipes import (
    Recipe,
    Step,
    Variables,
    interpolate,
    lifecycle_for,
    parse,
    select_manifest,
    steps_of,
)
from foreshore.greengrass.resolution import resolve, start_order
from foreshore.greengrass.runner import ComponentLog, Runner
from foreshore.greengrass.versions import BadVersion, Range, Version
from foreshore.seams import EmitLog, EmitSpan, LogLine, Span
from foreshore.traces.recorder import new_span_id, new_trace_id

NUCLEUS = "aws.greengrass.Nucleus"
GGC_VERSION = "2.18.0"
PROVIDED: Mapping[str, str] = {
    NUCLEUS: GGC_VERSION,
    "aws.greengrass.Cli": GGC_VERSION,
    "aws.greengrass.TokenExchangeService": "2.0.3",
    "aws.greengrass.ShadowManager": "2.3.9",
    "aws.greengrass.SecretManager": "2.1.8",
    "aws.greengrass.StreamManager": "2.1.13",
    "aws.greengrass.DiskSpooler": "1.0.5",
    "aws.greengrass.clientdevices.Auth": "2.5.0",
    "aws.greengrass.clientdevices.mqtt.Bridge": "2.3.2",
    "aws.greengrass.clientdevices.mqtt.Moquette": "2.3.7",
    "aws.greengrass.telemetry.NucleusEmitter": "1.0.8",
    "aws.greengrass.LambdaManager": "2.3.4",
    "aws.greengrass.LambdaLauncher": "2.0.13",
    "aws.greengrass.LambdaRuntimes": "2.0.8",
}
"""Components of AWS's that the core itself stands for, and the versions whose behaviour is followed."""

_ARCHITECTURES = {
    "x86_64": "amd64",
    "amd64": "amd64",
    "i386": "x86",
    "i686": "x86",
    "aarch64": "aarch64",
    "arm64": "aarch64",
}
RELATIVE_SOCKET_FROM = 108
SETTLE_S = 0.3


def this_platform(profile: Profile) -> dict[str, str]:
    """The platform attributes of this machine, as recipes name them."""
    machine = platform_module.machine().lower()
    found = {
        "os": "darwin" if sys.platform == "darwin" else "linux",
        "architecture": _ARCHITECTURES.get(machine, "arm" if machine.startswith("arm") else "unknown"),
    }
    if machine in ("armv6l", "armv7l", "armv8l"):
        found["architecture.detail"] = machine
    if profile == "lite":
        found["runtime"] = "aws_nucleus_lite"
    return found


@dataclass(slots=True)
class Deployed:
    """What is deployed, as kept on disk: root components by group, and the version of every component."""

    groups: dict[str, dict[str, str]] = field(default_factory=dict)
    components: dict[str, str] = field(default_factory=dict)


class Deployment:
    """One deployment on its way: what it asks, where it stands, whether it was cancelled."""

    def __init__(self, document: DeploymentDocument, group: str, created_ms: int) -> None:
        self.id = str(uuid.uuid4())
        self.document = document
        self.group = group
        self.status = DeploymentStatus(self.id, "QUEUED", created_ms)
        self.cancelled = asyncio.Event()
        self.over = asyncio.Event()


class Supervisor:
    """All components of one core. Start it, deploy to it, stop it; both `start` and `stop` may be called twice."""

    def __init__(
        self,
        *,
        root: Path,
        thing: str,
        region: str,
        configuration: Configuration,
        environment: Callable[[], dict[str, str]],
        ipc_socket: Path,
        tokens: Tokens,
        log: EmitLog,
        span: EmitSpan,
        run_folder: Path,
        profile: Profile = "classic",
        updates: ComponentUpdates | None = None,
        validations: ConfigurationValidations | None = None,
        project: Path | None = None,
        platform: Mapping[str, str] | None = None,
        settle_s: float = SETTLE_S,
    ) -> None:
        self.root = root.absolute()
        self.thing = thing
        self.region = region
        self.configuration = configuration
        self.profile: Profile = profile
        self.artifacts = ArtifactStore(self.root, project.absolute() if project else None)
        self.runners: dict[str, Runner] = {}
        self.definitions: dict[str, Definition] = {}
        self.groups: dict[str, dict[str, str]] = {}
        self._layout = Layout(self.root)
        self._environment = environment
        self._ipc_socket = ipc_socket
        self._tokens = tokens
        self._emit = log
        self._span = span
        self._run_folder = run_folder
        self._updates = updates or ComponentUpdates()
        self._validations = validations or ConfigurationValidations()
        self._settle_s = settle_s
        self._platform = dict(platform or this_platform(profile))
        self._deployments: dict[str, Deployment] = {}
        self._queue: asyncio.Queue[Deployment] = asyncio.Queue()
        self._worker: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._stopping = False
        self._core_log: ComponentLog | None = None

    # life

    async def start(self) -> None:
        """Make the folders, end strays of a killed run, and start again what was deployed."""
        if self._worker is not None:
            return
        for folder in FOLDERS:
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        self._stopping = False
        reap_strays(self._run_folder)
        self._core_log = ComponentLog(self.root / "logs/greengrass.log", "greengrass", self._emit)
        self._write_cli_info()
        self._queue = asyncio.Queue()
        self._worker = asyncio.ensure_future(self._work())
        self._relaunch()

    async def stop(self) -> None:
        """Shut every component down, dependents first."""
        if self._worker is None:
            return
        self._stopping = True
        self._worker.cancel()
        await asyncio.gather(self._worker, return_exceptions=True)
        self._worker = None
        for deployment in self._deployments.values():
            deployment.over.set()
        await self._close_in_order(list(self.runners))
        self.runners.clear()
        self.definitions.clear()
        (self.root / "cli_ipc_info" / f"user-{os.getuid()}").unlink(missing_ok=True)
        if self._core_log is not None:
            self._core_log.close()
            self._core_log = None

    def _write_cli_info(self) -> None:
        """The file by which AWS's greengrass-cli finds the socket and its token (greengrass-cli, CLIService)."""
        client = f"user-{os.getuid()}"
        info = {
            "cli_auth_token": self._tokens.issue(f"greengrass-cli#{client}"),
            "domain_socket_path": str(self._ipc_socket),
        }
        file = self.root / "cli_ipc_info" / client
        file.unlink(missing_ok=True)
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            stream.write(orjson.dumps(info))

    def _relaunch(self) -> None:
        state = self._read_state()
        self.groups = state.groups
        wanted: dict[str, Definition] = {}
        for name, version in state.components.items():
            try:
                recipe = self._stored_recipe(name, version)
                wanted[name] = self._define(recipe, self.configuration.document, state.components)
            except ForeshoreError as error:
                self.say("ERROR", f"{name} {version} can't be started again: {error}")
        self.definitions = wanted
        for name in self._order(wanted):
            self._launch(wanted[name])

    def _read_state(self) -> Deployed:
        file = self.root / "deployments/state.json"
        return Deployed(**orjson.loads(file.read_bytes())) if file.exists() else Deployed()

    def _write_state(self) -> None:
        file = self.root / "deployments/state.json"
        fresh = file.with_suffix(".new")
        components = {name: definition.version for name, definition in self.definitions.items()}
        deployed = Deployed(self.groups, components)
        with fresh.open("wb") as stream:
            stream.write(orjson.dumps(deployed))
            stream.flush()
            os.fsync(stream.fileno())
        fresh.replace(file)

    def say(self, level: str, text: str, event: str = "deployment") -> None:
        """A line in greengrass.log and the trace store."""
        if self._core_log is not None:
            self._core_log.write(level, event, text, {"thing": self.thing}, thread="main")
        else:
            self._emit(LogLine(time.time_ns(), "greengrass", self.thing, level, "", text))

    # processes

    def _launch(self, definition: Definition) -> None:
        runner = Runner(
            definition.name,
            definition.steps,
            version=definition.version,
            root=self.root,
            cwd=Path(self._layout.work(definition.name)),
            environment=lambda step, name=definition.name: self.environment_of(name, step),  # type: ignore[misc]
            log=ComponentLog(Path(self._layout.log(definition.name)), definition.name, self._emit),
            run_folder=self._run_folder,
            on_change=self._on_change,
            error_reset_s=definition.error_reset_s,
        )
        self.runners[definition.name] = runner
        runner.post(DependenciesReady(self._is_ready(definition.name)))
        runner.post(Request.START)

    def environment_of(self, component: str, step: Step) -> dict[str, str]:
        """The environment of one step: this process's without AWS_*, the core's, the nucleus's own, then Setenv."""
        work = str(self._layout.work(component))
        socket = str(self._ipc_socket)
        token = self._tokens.issue(component)
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
        relative = os.path.relpath(socket, work) if len(socket.encode()) >= RELATIVE_SOCKET_FROM else socket
        return {
            **inherited,
            "GG_ROOT_CA_PATH": "",
            "GGC_VERSION": GGC_VERSION,
            **self._environment(),
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_IOT_THING_NAME": self.thing,
            "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH": socket,
            "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT": relative,
            "SVCUID": token,
            "AWS_CONTAINER_AUTHORIZATION_TOKEN": token,
            **step.setenv,
        }

    def _is_ready(self, component: str) -> bool:
        """Whether all HARD dependencies of a component are ready; those the core provides always are."""
        wishes = self.definitions[component].dependencies
        return all(
            self.runners[name].machine.is_ready for name, hard in wishes.items() if hard and name in self.runners
        )

    def _on_change(self, name: str, change: Changed) -> None:
        self._changed.set()
        for other, definition in self.definitions.items():
            if definition.dependencies.get(name) and other in self.runners:
                self.runners[other].post(DependenciesReady(self._is_ready(other)))
        if change.new is State.BROKEN:
            self.say("ERROR", f"{name} is BROKEN: {change.reason}", "service-broken")

    def _order(self, definitions: Mapping[str, Definition]) -> list[str]:
        wishes = {name: set(each.dependencies) & definitions.keys() for name, each in definitions.items()}
        return start_order(wishes)

    async def _close_in_order(self, names: Sequence[str], request: Request = Request.CLOSE) -> None:
        """Close components, each after those that depend on it HARD."""
        closing: dict[str, asyncio.Task[None]] = {}

        async def close(name: str) -> None:
            dependents = [
                closing[other]
                for other, definition in self.definitions.items()
                if definition.dependencies.get(name) and other in closing
            ]
            if dependents:
                await asyncio.wait(dependents)
            await self.runners[name].close(request)

        known = {name: each for name, each in self.definitions.items() if name in self.runners}
        order = [name for name in reversed(self._order(known)) if name in names]
        for name in order:
            closing[name] = asyncio.ensure_future(close(name))
        if closing:
            await asyncio.gather(*closing.values())

    # recipes

    def _stored_recipe(self, name: str, version: str) -> Recipe:
        for suffix in (".yaml", ".json"):
            file = Path(self._layout.recipe(name, version)).with_name(f"{name}-{version}{suffix}")
            if file.exists():
                return parse(file.read_text(), str(file))
        raise UserError(f"the recipe of {name} {version} is gone", code="no-recipe", where=str(self.root))

    def take_recipes(self, folder: Path) -> list[Recipe]:
        """Store every recipe of a folder (`*.yaml`, `*.yml`, `*.json` that name a component). Raises UserError."""
        if not folder.is_dir():
            raise UserError(
                "there is no such recipe folder", code="no-recipes", where=str(folder), mend="name one that exists"
            )
        taken = []
        for file in sorted(folder.iterdir()):
            if file.suffix not in (".yaml", ".yml", ".json") or file.stem == "deployment":
                continue
            text = file.read_text()
            recipe = parse(text, str(file))
            suffix = ".json" if file.suffix == ".json" else ".yaml"
            target = self.root / "packages/recipes" / f"{recipe.name}-{recipe.version}{suffix}"
            if not target.exists() or target.read_text() != text:
                target.write_text(text)
            taken.append(recipe)
        return taken

    def _known_recipes(self) -> dict[str, dict[Version, Recipe]]:
        found: dict[str, dict[Version, Recipe]] = {}
        for file in sorted((self.root / "packages/recipes").iterdir()):
            if file.suffix in (".yaml", ".json"):
                recipe = parse(file.read_text(), str(file))
                found.setdefault(recipe.name, {})[recipe.version] = recipe
        return found

    def _define(
        self,
        recipe: Recipe,
        configuration_of: Callable[[str], Mapping[str, object]],
        versions: Mapping[str, str],
    ) -> Definition:
        """Resolve a recipe on this machine: platform, artifacts, variables. Raises UserError or NotEmulated."""
        manifest = select_manifest(recipe, self._platform)
        if manifest is None:
            have = ", ".join(f"{key}={value}" for key, value in self._platform.items())
            raise UserError(
                f"no manifest of {recipe.name} {recipe.version} fits this platform ({have})",
                code="no-manifest",
                where=recipe.where,
                mend="add a manifest whose Platform matches, or one without Platform",
            )
        stamp = self.artifacts.place(recipe, manifest)
        version = str(recipe.version)

        def system(component: str, namespace: str, key: str) -> str | None:
            its_version = version if component == recipe.name else versions.get(component, PROVIDED.get(component, ""))
            return self._layout.system(component, its_version, self.thing, namespace, key)

        variables = Variables(recipe.name, frozenset(recipe.dependencies), configuration_of, system)
        lifecycle = interpolate(lifecycle_for(recipe, manifest), variables)
        return Definition(
            recipe.name,
            version,
            steps_of(lifecycle if isinstance(lifecycle, Mapping) else {}, recipe.where),
            {name: wish.hard for name, wish in recipe.dependencies.items()},
            stamp,
            recipe.component_type,
        )

    # deployments

    async def deploy_local(
        self,
        recipe_dir: Path | None,
        artifact_dir: Path | None,
        add: Mapping[str, str],
        remove: Sequence[str],
        config: Mapping[str, Mapping[str, object]],
        failure_policy: str = "ROLLBACK",
        *,
        group: str = LOCAL_GROUP,
    ) -> str:
        """Queue a local deployment: a delta on its group; give its id. Raises UserError when it can't be one.

        `add` is {component: version}, `config` {component: {"MERGE": {…}, "RESET": […]}}.
        """
        updates = {name: local_update(value) for name, value in config.items()}
        if recipe_dir is not None:
            self.take_recipes(recipe_dir)
        if artifact_dir is not None:
            self.artifacts.copy_in(artifact_dir)
        group = group or LOCAL_GROUP
        unknown = [name for name in remove if name not in self.groups.get(group, {})]
        for name in unknown:
            self.say("WARN", f"{name} is no root component of {group}: nothing to remove")
        roots = local_roots(self.groups.get(group, {}), add, remove)
        document = DeploymentDocument(
            components=roots, updates=updates, failure_policy=failure_policy, notify_components=False
        )
        return self._enqueue(document, group)

    async def deploy_document(self, document: DeploymentDocument) -> str:
        """Queue a deployment of a whole group: its components replace the group's former ones."""
        return self._enqueue(document, document.group)

    async def deploy_project(self, project: Path) -> str:
        """Queue `<project>/recipes/deployment.yaml` (or all recipes there, when there is none); give its id."""
        recipes = project / "recipes"
        self.artifacts.project = project.absolute()
        taken = self.take_recipes(recipes)
        for suffix in (".yaml", ".yml", ".json"):
            file = recipes / f"deployment{suffix}"
            if file.exists():
                return self._enqueue(read_document(file.read_text(), str(file)), LOCAL_GROUP)
        newest = {recipe.name: str(recipe.version) for recipe in sorted(taken, key=lambda each: each.version)}
        return self._enqueue(DeploymentDocument(components=newest), LOCAL_GROUP)

    def _enqueue(self, document: DeploymentDocument, group: str) -> str:
        deployment = Deployment(document, group, time.time_ns() // 1_000_000)
        self._deployments[deployment.id] = deployment
        self._queue.put_nowait(deployment)
        return deployment.id

    async def wait(self, deployment_id: str) -> DeploymentStatus:
        """Wait until a deployment is over; give how it ended. Raises DeploymentNotFound."""
        deployment = self._deployments.get(deployment_id)
        if deployment is None:
            raise DeploymentNotFound(deployment_id)
        await deployment.over.wait()
        return deployment.status

    async def _work(self) -> None:
        """Carry out queued deployments, one after the other."""
        while True:
            deployment = await self._queue.get()
            if deployment.status.status == "QUEUED":
                await self._carry_out(deployment)
            deployment.over.set()

    async def _carry_out(self, deployment: Deployment) -> None:
        status = deployment.status
        status.status = "IN_PROGRESS"
        started = time.time_ns()
        self.say("INFO", f"deployment {deployment.id} of {deployment.group} begins")
        try:
            await self._deploy(deployment)
        except ForeshoreError as error:
            _fail(
                status, "FAILED_NO_STATE_CHANGE", ["DEPLOYMENT_FAILURE", _code_of(error)], ["REQUEST_ERROR"], str(error)
            )
        except (OSError, ValueError) as error:
            _fail(status, "FAILED_NO_STATE_CHANGE", ["DEPLOYMENT_FAILURE", "IO_ERROR"], ["DEVICE_ERROR"], str(error))
        level = "INFO" if status.status == "SUCCEEDED" else "ERROR"
        self.say(level, f"deployment {deployment.id} ended {status.status}. {status.failure_cause}".rstrip())
        attributes: dict[str, object] = {"deployment": deployment.id, "status": status.status, "thing": self.thing}
        self._span(
            Span(
                new_trace_id(),
                new_span_id(),
                "",
                "greengrass",
                "deployment",
                started,
                time.time_ns() - started,
                status.status == "SUCCEEDED",
                attributes,
            )
        )

    async def _deploy(self, deployment: Deployment) -> None:
        document = deployment.document
        known = self._known_recipes()
        versions = self._resolve(deployment, known)
        recipes = {name: known[name][version] for name, version in versions.items()}
        now = time.time_ns() // 1_000_000
        previews = {name: self._preview(recipe, document, now) for name, recipe in recipes.items()}
        texts = {name: str(version) for name, version in versions.items()}

        def configuration_of(name: str) -> Mapping[str, object]:
            return previews[name] if name in previews else self.configuration.document(name)

        wanted = {name: self._define(recipe, configuration_of, texts) for name, recipe in recipes.items()}
        work = plan(self.definitions, wanted, self._order(wanted))
        await self._validate(deployment, previews)
        await self._notify(deployment, work)
        if deployment.cancelled.is_set():
            _cancel(deployment.status)
            return
        before = (self.configuration.snapshot(), dict(self.definitions), dict(self.groups))
        if document.notify_components is False and deployment.group not in self.groups:
            self.groups[deployment.group] = {}
        self.groups = {**self.groups, deployment.group: dict(document.components)}
        self._configure(recipes, document, now)
        broken = await self._apply(deployment, wanted, work)
        self._updates.announce_post(deployment.id, work.touched)
        if deployment.cancelled.is_set():
            _cancel(deployment.status)
        elif broken:
            await self._failed(deployment, broken, before)
        else:
            deployment.status.status = "SUCCEEDED"
            deployment.status.detailed = "SUCCESSFUL"
        self._write_state()

    def _resolve(self, deployment: Deployment, known: Mapping[str, Mapping[Version, Recipe]]) -> dict[str, Version]:
        groups = {**self.groups, deployment.group: deployment.document.components}
        roots: dict[str, dict[str, Range]] = {}
        for group, components in groups.items():
            for name, text in components.items():
                try:
                    roots.setdefault(name, {})[group] = Range.parse(text)
                except BadVersion as error:
                    raise UserError(
                        f"{name}: {error}", code="bad-deployment", mend="write a version such as 1.0.0"
                    ) from None
        available = {
            name: {version: recipe.dependencies for version, recipe in versions.items()}
            for name, versions in known.items()
        }
        provided = {name: Version.parse(version) for name, version in PROVIDED.items()}
        resolution = resolve(roots, available, provided)
        for note in resolution.notes:
            self.say("WARN", note)
        return resolution.versions

    def _update_of(self, name: str, document: DeploymentDocument) -> ConfigurationUpdate:
        """A deployment configures its root components only (nucleus, KernelConfigResolver)."""
        update = document.updates.get(name)
        return update if update is not None and name in document.components else ConfigurationUpdate()

    def _defaults(self, recipe: Recipe) -> Mapping[str, object]:
        defaults: object = recipe.default_configuration
        if self.profile == "lite":
            defaults = lite_scalars(defaults)
        if self.configuration.document(NUCLEUS).get("interpolateComponentConfiguration") in (True, "true"):
            variables = Variables(
                recipe.name,
                frozenset(recipe.dependencies),
                lambda name: None,
                lambda name, space, key: self._layout.system(name, str(recipe.version), self.thing, space, key),
            )
            defaults = interpolate(defaults, variables, configuration=False)
        return defaults if isinstance(defaults, Mapping) else {}

    def _preview(self, recipe: Recipe, document: DeploymentDocument, now: int) -> dict[str, object]:
        update = self._update_of(recipe.name, document)
        return self.configuration.preview(
            recipe.name, defaults=self._defaults(recipe), reset=update.reset, merge=update.merge, timestamp=now
        )

    def _configure(self, recipes: Mapping[str, Recipe], document: DeploymentDocument, now: int) -> None:
        for recipe in recipes.values():
            update = self._update_of(recipe.name, document)
            self.configuration.apply(
                recipe.name, defaults=self._defaults(recipe), reset=update.reset, merge=update.merge, timestamp=now
            )
        for name, update in document.updates.items():
            if name in recipes and name not in document.components:
                self.say("WARN", f"{name} is no root component of the deployment: its configuration update is ignored")
            elif name in PROVIDED:
                self.configuration.apply(name, defaults={}, reset=update.reset, merge=update.merge, timestamp=now)

    async def _validate(self, deployment: Deployment, previews: Mapping[str, Mapping[str, object]]) -> None:
        """Ask the components that validate their own configuration. Raises UserError when one refuses or is silent."""
        for name, proposed in previews.items():
            if proposed == self.configuration.document(name):
                continue
            answer: asyncio.Future[tuple[str, str]] = asyncio.get_running_loop().create_future()

            def report(status: str, message: str, answer: asyncio.Future[tuple[str, str]] = answer) -> None:
                if not answer.done():
                    answer.set_result((status, message))

            if not self._validations.ask(name, deployment.id, proposed, report):
                continue
            try:
                status, message = await asyncio.wait_for(answer, deployment.document.validation_timeout_s)
            except TimeoutError:
                status, message = "REJECTED", "it did not answer in time"
            finally:
                self._validations.abandon(name, deployment.id)
            if status != "ACCEPTED":
                raise UserError(
                    f"{name} refused its new configuration: {message}",
                    code="configuration-refused",
                    mend="change the configuration update",
                )

    async def _notify(self, deployment: Deployment, work: Plan) -> None:
        """Tell the components that listen for updates, and wait while they defer, within the policy's limit."""
        document = deployment.document
        if not document.notify_components:
            return
        while True:
            deferred: list[int] = []
            answered = asyncio.Event()
            waiting: set[str] = set()

            def on_answer(
                name: str,
                recheck_ms: int,
                deferred: list[int] = deferred,
                waiting: set[str] = waiting,
                answered: asyncio.Event = answered,
            ) -> None:
                if recheck_ms > 0:
                    deferred.append(recheck_ms)
                waiting.discard(name)
                if not waiting:
                    answered.set()

            touched = [name for name in work.touched if name in self.runners]
            waiting |= {name for name in self._updates.listeners() if name in touched}
            if not waiting:
                return
            self._updates.announce_pre(deployment.id, touched, on_answer)
            try:
                await asyncio.wait_for(answered.wait(), document.update_timeout_s)
            except TimeoutError:
                return
            if not deferred:
                return
            await asyncio.sleep(max(deferred) / 1000)

    async def _apply(self, deployment: Deployment, wanted: dict[str, Definition], work: Plan) -> list[str]:
        """Carry a plan out and wait until every component is settled; give those that are BROKEN."""
        failed = await self._bootstrap(wanted, work)
        await self._remove(work.remove)
        self.definitions = dict(wanted)
        if failed:
            return failed
        for name in work.reinstall + work.restart:
            definition = wanted[name]
            self.runners[name].replace_steps(definition.steps, definition.version)
        for name in self._order(wanted):
            self._set_going(name, wanted[name], work)
        return await self._settle(deployment, list(wanted))

    def _set_going(self, name: str, definition: Definition, work: Plan) -> None:
        if name not in self.runners:
            self._launch(definition)
            return
        runner = self.runners[name]
        runner.post(DependenciesReady(self._is_ready(name)))
        if name in work.reinstall or runner.machine.state is State.BROKEN:
            runner.post(Request.REINSTALL)
        elif name in work.restart:
            runner.post(Request.RESTART)

    async def _bootstrap(self, wanted: Mapping[str, Definition], work: Plan) -> list[str]:
        """Run the Bootstrap steps in order; give the component whose step failed, if any."""
        for name in work.bootstrap:
            if name in self.runners:
                await self.runners[name].close()
                del self.runners[name]
            probe = self._prober(wanted[name])
            try:
                outcome = bootstrap_outcome(await probe.bootstrap())
            except UserError as error:
                outcome = "failed"
                self.say("ERROR", str(error))
            finally:
                probe.log.close()
            if outcome == "failed":
                return [name]
            if outcome != "done":
                word = "restart the nucleus" if outcome == "restart" else "reboot the device"
                self.say("WARN", f"the Bootstrap step of {name} asks to {word}: all components are restarted")
                running = list(self.runners)
                await self._close_in_order(running)
                for other in running:
                    del self.runners[other]
        return []

    def _prober(self, definition: Definition) -> Runner:
        """A runner for the Bootstrap step, which runs before the component is one."""
        return Runner(
            definition.name,
            definition.steps,
            version=definition.version,
            root=self.root,
            cwd=Path(self._layout.work(definition.name)),
            environment=lambda step: self.environment_of(definition.name, step),
            log=ComponentLog(Path(self._layout.log(definition.name)), definition.name, self._emit),
            run_folder=self._run_folder,
            on_change=lambda name, change: None,
        )

    async def _remove(self, names: Sequence[str]) -> None:
        await self._close_in_order([name for name in names if name in self.runners], Request.UNINSTALL)
        for name in names:
            self.runners.pop(name, None)
            self.definitions.pop(name, None)
            self._tokens.withdraw(name)
            self.configuration.remove(name)

    async def _settle(self, deployment: Deployment, names: Sequence[str]) -> list[str]:
        """Wait until all are as asked and stay so for `settle_s`, or one is BROKEN; give the BROKEN ones.

        Run makes a component RUNNING when its process is spawned, so one that dies at once is RUNNING for a moment.
        """
        while not deployment.cancelled.is_set():
            self._changed.clear()
            machines = {name: self.runners[name].machine for name in names}
            broken = [name for name, each in machines.items() if each.state is State.BROKEN and each.is_settled]
            if broken:
                return broken
            settled = all(each.is_settled for each in machines.values())
            waits = [asyncio.ensure_future(self._changed.wait()), asyncio.ensure_future(deployment.cancelled.wait())]
            try:
                done, _ = await asyncio.wait(
                    waits, timeout=self._settle_s if settled else None, return_when=asyncio.FIRST_COMPLETED
                )
            finally:
                for each in waits:
                    each.cancel()
            if settled and not done:
                return []
        return []

    async def _failed(
        self,
        deployment: Deployment,
        broken: list[str],
        before: tuple[object, dict[str, Definition], dict[str, dict[str, str]]],
    ) -> None:
        cause = "\n".join(self.explain(name) for name in broken)
        stack = ["DEPLOYMENT_FAILURE", "COMPONENT_UPDATE_ERROR", "COMPONENT_BROKEN"]
        detailed = "FAILED_ROLLBACK_NOT_REQUESTED"
        if deployment.document.failure_policy == "ROLLBACK":
            detailed = (
                "FAILED_ROLLBACK_COMPLETE" if await self._roll_back(deployment, before) else "FAILED_UNABLE_TO_ROLLBACK"
            )
        _fail(deployment.status, detailed, stack, ["COMPONENT_ERROR"], cause)

    def explain(self, name: str) -> str:
        """Why a component is where it is, with the last lines it wrote."""
        if name not in self.runners:
            return f"{name}: its Bootstrap step failed; see {self._layout.log(name)}"
        runner = self.runners[name]
        lines = "".join(f"\n    {line}" for line in runner.log.tail)
        return f"{name} is {runner.machine.state}: {runner.machine.status_reason}{lines and ' It last wrote:'}{lines}"

    async def _roll_back(
        self, deployment: Deployment, before: tuple[object, dict[str, Definition], dict[str, dict[str, str]]]
    ) -> bool:
        """Go back to the configuration and components from before; whether all of them run again."""
        snapshot, definitions, groups = before
        self.say("WARN", f"deployment {deployment.id} is rolled back")
        work = plan(self.definitions, definitions, self._order(definitions))
        await self._remove(work.remove)
        self.configuration.restore(snapshot)  # type: ignore[arg-type]
        self.groups = groups
        return not await self._apply(deployment, definitions, Plan(work.add, [], work.reinstall, work.restart))

    # Components, for the IPC operations

    def statuses(self) -> list[ComponentStatus]:
        """Every component, those that the core itself stands for at the end."""
        mine = [self.details(name) for name in self._order(self.definitions)]
        own = [self.details(name) for name in (NUCLEUS, "aws.greengrass.Cli")]
        return mine + own

    def details(self, name: str) -> ComponentStatus:
        """One component. Raises ComponentNotFound."""
        if name in self.definitions:
            runner = self.runners.get(name)
            state = str(runner.machine.state) if runner else "NEW"
            return ComponentStatus(name, self.definitions[name].version, state, self.configuration.document(name))
        if name in PROVIDED:
            return ComponentStatus(name, PROVIDED[name], "RUNNING", self.configuration.document(name))
        raise ComponentNotFound(name)

    def _runner(self, name: str) -> Runner:
        runner = self.runners.get(name)
        if runner is None:
            raise ComponentNotFound(name)
        return runner

    def report_state(self, name: str, state: str) -> None:
        """A component's own word on its state (UpdateState). Raises ComponentNotFound."""
        self._runner(name).post(Reported(State(state)))

    async def restart_component(self, name: str) -> str | None:
        """Restart it. A BROKEN one is installed anew, where the nucleus would leave it BROKEN."""
        if name in PROVIDED and name not in self.runners:
            return f"{name} is part of the core and can't be restarted alone"
        runner = self._runner(name)
        broken = runner.machine.state is State.BROKEN
        runner.post(Request.REINSTALL if broken else Request.RESTART)
        return None

    async def stop_component(self, name: str) -> str | None:
        """Stop it until it is restarted or the core starts again."""
        if name in PROVIDED and name not in self.runners:
            return f"{name} is part of the core and can't be stopped alone"
        self._runner(name).post(Request.STOP)
        return None

    async def pause_component(self, name: str) -> None:
        """Freeze its processes. Raises ComponentNotFound, or UserError when it is not RUNNING."""
        self._running(name).pause()

    async def resume_component(self, name: str) -> None:
        """Thaw its processes. Raises as `pause_component`."""
        self._running(name).resume()

    def _running(self, name: str) -> Runner:
        runner = self._runner(name)
        if runner.machine.state is not State.RUNNING:
            raise UserError(f"{name} is {runner.machine.state}, not RUNNING", code="not-running")
        return runner

    async def create_local_deployment(self, request: LocalDeploymentRequest) -> str:
        """Queue what CreateLocalDeployment asks. Raises UserError."""
        return await self.deploy_local(
            Path(request.recipe_directory) if request.recipe_directory else None,
            Path(request.artifacts_directory) if request.artifacts_directory else None,
            request.root_components_to_add,
            request.root_components_to_remove,
            request.component_configuration,
            request.failure_policy or "ROLLBACK",
            group=f"thinggroup/{request.group_name}" if request.group_name else LOCAL_GROUP,
        )

    def deployment_status(self, deployment_id: str) -> DeploymentStatus:
        """Raises DeploymentNotFound."""
        deployment = self._deployments.get(deployment_id)
        if deployment is None:
            raise DeploymentNotFound(deployment_id)
        return deployment.status

    def deployments(self) -> list[DeploymentStatus]:
        """All deployments since the start, newest first."""
        return [each.status for each in reversed(self._deployments.values())]

    async def cancel_deployment(self, deployment_id: str) -> str:
        """Cancel what is QUEUED or IN_PROGRESS. Raises DeploymentNotFound."""
        deployment = self._deployments.get(deployment_id)
        if deployment is None:
            raise DeploymentNotFound(deployment_id)
        if deployment.status.status not in ("QUEUED", "IN_PROGRESS"):
            return f"The deployment is {deployment.status.status} and can't be canceled"
        deployment.cancelled.set()
        if deployment.status.status == "QUEUED":
            _cancel(deployment.status)
        return "Deployment cancellation requested"


def _fail(status: DeploymentStatus, detailed: str, stack: list[str], types: list[str], cause: str) -> None:
    status.status, status.detailed = "FAILED", detailed
    status.error_stack, status.error_types, status.failure_cause = stack, types, cause


def _cancel(status: DeploymentStatus) -> None:
    status.status, status.detailed = "CANCELED", "CANCELED"


_ERROR_CODES = {
    "component-not-found": "NO_AVAILABLE_COMPONENT_VERSION",
    "dependency-conflict": "NO_AVAILABLE_COMPONENT_VERSION",
    "dependency-cycle": "COMPONENT_CIRCULAR_DEPENDENCY_ERROR",
    "bad-recipe": "RECIPE_PARSE_ERROR",
    "bad-document": "RECIPE_PARSE_ERROR",
    "no-manifest": "NO_APPLICABLE_COMPONENT_PLATFORM_MANIFEST",
    "no-artifact": "ARTIFACT_DOWNLOAD_ERROR",
    "artifact-digest": "ARTIFACT_CHECKSUM_MISMATCH",
    "configuration-refused": "COMPONENT_CONFIGURATION_NOT_VALID",
}


def _code_of(error: ForeshoreError) -> str:
    return _ERROR_CODES.get(str(getattr(error, "code", "")), "DEPLOYMENT_DOCUMENT_NOT_VALID")


def factory(*, environment: Callable[[], dict[str, str]], run_folder: Path, project: Path | None) -> ComponentsFactory:
    """A `ComponentsFactory` for `service.Core`: supervisors whose steps also get `environment()`."""

    def make(context: CoreContext) -> Supervisor:
        return Supervisor(
            root=context.root,
            thing=context.thing,
            region=context.region,
            configuration=context.configuration,
            environment=lambda: {**context.environment, **environment()},
            ipc_socket=context.ipc_socket,
            tokens=context.tokens,
            log=context.log,
            span=context.span,
            run_folder=run_folder,
            profile=context.profile,
            updates=context.updates,
            validations=context.validations,
            project=project,
        )

    return make
