"""Shell: the components of one core device, as the IPC operations, the CLI and `foreshore.app` see them.

`Supervisor` joins the recipes (`recipe_store.py`), the processes (`processes.py`) and the deployments (`deployer.py`)
of a core, implements `components.Components`, and keeps what is deployed in `<root>/deployments/state.json`, so that
`start()` brings it back.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from foreshore.children import reap_strays
from foreshore.errors import ForeshoreError, UserError
from foreshore.greengrass.artifacts import ArtifactStore
from foreshore.greengrass.component_log import ComponentLog
from foreshore.greengrass.components import (
    ComponentNotFound,
    ComponentsFactory,
    ComponentStatus,
    ComponentUpdates,
    ConfigurationValidations,
    CoreContext,
    DeploymentStatus,
    LocalDeploymentRequest,
    OnDeployment,
    OnState,
    Profile,
    Settle,
    Tokens,
)
from foreshore.greengrass.configuration import Configuration
from foreshore.greengrass.deployer import SETTLE_S, Deployer, Deployment, Groups
from foreshore.greengrass.deployment_journal import UNFINISHED, DeploymentJournal, Progress
from foreshore.greengrass.deployments import (
    LOCAL_GROUP,
    DeploymentDocument,
    local_update,
    read_document,
)
from foreshore.greengrass.layout import FOLDERS
from foreshore.greengrass.lifecycle import Reported, State
from foreshore.greengrass.lifecycle import Request as Wish
from foreshore.greengrass.nucleus_settings import read_nucleus
from foreshore.greengrass.processes import Processes, Surroundings, order_of
from foreshore.greengrass.provided import CLI, NUCLEUS, NUCLEUS_LITE, PROVIDED
from foreshore.greengrass.recipe_store import RecipeStore, deployment_file, this_platform
from foreshore.greengrass.runner import Runner
from foreshore.http import Request, Response
from foreshore.seams import EmitLog, EmitSpan, LogLine, Span
from foreshore.traces.recorder import new_span_id, new_trace_id


@dataclass(slots=True)
class _Deployed:
    """What is deployed, as kept on disk: roots by group, versions, and digests of the artifacts as placed."""

    groups: Groups = field(default_factory=dict)
    components: dict[str, str] = field(default_factory=dict)
    stamps: dict[str, dict[str, str]] = field(default_factory=dict)
    run_with: dict[str, dict[str, Any]] = field(default_factory=dict)


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
        settle: Settle | None = None,
        on_state: OnState | None = None,
        on_deployment: OnDeployment | None = None,
        platform: Mapping[str, str] | None = None,
        settle_s: float = SETTLE_S,
    ) -> None:
        self.root = root.absolute()
        self.thing = thing
        self.configuration = configuration
        self.artifacts = ArtifactStore(self.root, project.absolute() if project else None)
        self._nuclei = (NUCLEUS, NUCLEUS_LITE) if profile == "lite" else (NUCLEUS,)
        attributes = self._platform = dict(platform or this_platform(profile))
        self.recipes = RecipeStore(self.root, thing, self.artifacts, attributes, profile)
        surroundings = Surroundings(
            root=self.root,
            thing=thing,
            region=region,
            environment=environment,
            ipc_socket=ipc_socket.absolute(),
            tokens=tokens,
            log=log,
            run_folder=run_folder,
        )
        self.surroundings = surroundings
        self.processes = Processes(surroundings, self._broken, on_state)
        self.deployer = Deployer(
            processes=self.processes,
            recipes=self.recipes,
            configuration=configuration,
            tokens=tokens,
            updates=updates or ComponentUpdates(),
            validations=validations or ConfigurationValidations(),
            profile=profile,
            say=self.say,
            on_over=self._deployment_over,
            settle_services=settle,
            settle_s=settle_s,
        )
        self._tokens = tokens
        self._on_deployment = on_deployment
        self._emit = log
        self._span = span
        self._log: ComponentLog | None = None

    # life

    async def start(self) -> None:
        """Make the folders, end strays of a killed run, and start again what was deployed."""
        if self._log is not None:
            return
        for folder in FOLDERS:
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        reap_strays(self.surroundings.run_folder)
        self._log = ComponentLog(self.root / "logs/greengrass.log", "greengrass", self._emit, self.surroundings.logging)
        self._told: set[str] = set()
        self._read_nucleus()
        self._unwatches = [
            self.configuration.watch(name, (), lambda change: self._read_nucleus()) for name in self._nuclei
        ]
        self._write_cli_info()
        self._journal = DeploymentJournal(self.root / "deployments/deployments.db")
        self._restore(self._journal)
        self.processes.launch_all()
        self.deployer.start(self._journal)

    async def stop(self) -> None:
        """Shut every component down, dependents first."""
        if self._log is None:
            return
        for unwatch in self._unwatches:
            unwatch()
        await self.deployer.stop()
        await self.processes.close(list(self.processes.runners))
        (self.root / "cli_ipc_info" / f"user-{os.getuid()}").unlink(missing_ok=True)
        self._journal.close()
        self._log.close()
        self._log = None

    def _read_nucleus(self) -> None:
        """Take the nucleus's configuration, and tell once what of it has no effect."""
        document: dict[str, object] = {}
        for name in self._nuclei:
            document |= self.configuration.document(name)
        settings = read_nucleus(document)
        self.surroundings.settings = settings
        self.surroundings.logging.settings = settings.logging
        self.recipes.platform = {**self._platform, **settings.platform}
        for note in settings.notes:
            if note not in self._told:
                self._told.add(note)
                self.say("WARN", f"{self._nuclei[-1]}: {note}")

    def _write_cli_info(self) -> None:
        """The file by which AWS's greengrass-cli finds the socket and its token (greengrass-cli, CLIService)."""
        client = f"user-{os.getuid()}"
        info = {
            "cli_auth_token": self._tokens.issue(f"greengrass-cli#{client}"),
            "domain_socket_path": str(self.surroundings.ipc_socket),
        }
        file = self.root / "cli_ipc_info" / client
        file.unlink(missing_ok=True)
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            stream.write(orjson.dumps(info))

    def _restore(self, journal: DeploymentJournal) -> None:
        """Define what was deployed, from its stored recipes, the artifacts as they were placed, and the configuration
        it was started with: an interrupted deployment may have changed that."""
        deployed = self._read_state()
        self.deployer.groups = deployed.groups
        self.processes.definitions = {}
        interrupted = next((each for each in journal.load() if each.status.status in UNFINISHED), None)
        progress = interrupted.progress if interrupted is not None else Progress()
        earlier = self.configuration.snapshot_of(progress.trees)

        def configuration_of(component: str) -> dict[str, object]:
            known = earlier if component in progress.touched else self.configuration
            return known.document(component)

        for name, version in deployed.components.items():
            try:
                recipe = self.recipes.find(name, version)
                stamps = deployed.stamps.get(name, {})
                definition = self.recipes.define(recipe, configuration_of, deployed.components, stamps)
                run_with = deployed.run_with.get(name, {})
                self.processes.definitions[name] = replace(definition, run_with=run_with)
            except ForeshoreError as error:
                self.say("ERROR", f"{name} {version} can't be started again: {error}")
        self.deployer.restore_provided()

    def _read_state(self) -> _Deployed:
        file = self.root / "deployments/state.json"
        try:
            return _Deployed(**orjson.loads(file.read_bytes()))
        except FileNotFoundError:
            return _Deployed()
        except (ValueError, TypeError) as error:
            raise UserError(
                f"what is deployed can't be read: {error}",
                code="state-unusable",
                where=str(file),
                mend="remove the file and deploy again",
            ) from None

    def _write_state(self) -> None:
        definitions = self.processes.definitions.values()
        deployed = _Deployed(
            self.deployer.groups,
            {each.name: each.version for each in definitions},
            {each.name: dict(each.stamps) for each in definitions},
            {each.name: dict(each.run_with) for each in definitions if each.run_with},
        )
        file = self.root / "deployments/state.json"
        fresh = file.with_suffix(".new")
        with fresh.open("wb") as stream:
            stream.write(orjson.dumps(deployed))
            stream.flush()
            os.fsync(stream.fileno())
        fresh.replace(file)

    def _deployment_over(self, deployment: Deployment, started_ns: int) -> None:
        self._write_state()
        status = deployment.status
        attributes: dict[str, object] = {"deployment": deployment.id, "status": status.status, "thing": self.thing}
        took = time.time_ns() - started_ns
        well = status.status == "SUCCEEDED"
        self._span(
            Span(new_trace_id(), new_span_id(), "", "greengrass", "deployment", started_ns, took, well, attributes)
        )
        if self._on_deployment is not None:
            self._on_deployment(deployment.group, status)

    def _broken(self, name: str, reason: str) -> None:
        self.say("ERROR", f"{name} is BROKEN: {reason}")

    def say(self, level: str, text: str) -> None:
        """A line in greengrass.log and the trace store."""
        if self._log is not None:
            self._log.write(level, "", text, {"thing": self.thing}, thread="main")
        else:
            self._emit(LogLine(time.time_ns(), "greengrass", self.thing, level, "", text))

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
        run_with: Mapping[str, Mapping[str, object]] | None = None,
    ) -> str:
        """Queue a local deployment: a delta on its group; give its id. Raises UserError when it can't be one.

        `add` is {component: version}, `config` {component: {"MERGE": {…}, "RESET": […]}}.
        """
        updates = {name: local_update(value) for name, value in config.items()}
        if failure_policy not in ("ROLLBACK", "DO_NOTHING"):
            mend = "use ROLLBACK or DO_NOTHING"
            raise UserError(f"{failure_policy!r} is no failure policy", code="bad-deployment", mend=mend)
        if recipe_dir is not None:
            self.recipes.take(recipe_dir)
        if artifact_dir is not None:
            self.artifacts.copy_in(artifact_dir)
        running = self.deployer.groups.get(group, {})
        for name in remove:
            if name not in running:
                self.say("WARN", f"{name} is no root component of {group} now: there may be nothing to remove")
        document = DeploymentDocument(
            components=dict(add),
            updates=updates,
            run_with=run_with or {},
            failure_policy=failure_policy,
            notify_components=False,
            is_delta=True,
            remove=tuple(remove),
        )
        return self.deployer.enqueue(document, group)

    async def deploy_document(self, document: DeploymentDocument, identifier: str = "") -> str:
        """Queue a deployment of a whole group: its components replace the group's former ones."""
        return self.deployer.enqueue(document, document.group, identifier)

    async def deploy_project(self, project: Path, recipes: Path | None = None) -> str:
        """Queue `<project>/recipes/deployment.yaml`, or all recipes there when there is none; give its id.

        `recipes` names another folder of recipes. It replaces what local deployments made of the LOCAL_DEPLOYMENT
        group. Raises UserError.
        """
        folder = recipes or project / "recipes"
        self.artifacts.project = project.absolute()
        taken = self.recipes.take(folder)
        file = deployment_file(folder)
        if file is not None:
            document = read_document(file.read_text(errors="replace"), str(file))
            for key in document.without_effect:
                self.say("WARN", f"{file}: {key} has no effect here")
        else:
            newest = {recipe.name: str(recipe.version) for recipe in sorted(taken, key=lambda each: each.version)}
            document = DeploymentDocument(components=newest)
        self.deployer.supersede(LOCAL_GROUP)
        return self.deployer.enqueue(document, LOCAL_GROUP)

    async def redeploy(self) -> str:
        """Queue the LOCAL_DEPLOYMENT group as it is, for changed recipes or artifacts; give its id."""
        return self.deployer.enqueue(DeploymentDocument(is_delta=True, notify_components=False), LOCAL_GROUP)

    async def wait(self, deployment_id: str) -> DeploymentStatus:
        """Wait until a deployment is over; give how it ended. Raises DeploymentNotFound."""
        deployment = self.deployer.find(deployment_id)
        await deployment.over.wait()
        return deployment.status

    async def create_local_deployment(self, request: LocalDeploymentRequest) -> str:
        """Queue what CreateLocalDeployment asks; give its id. Raises UserError."""
        return await self.deploy_local(
            Path(request.recipe_directory) if request.recipe_directory else None,
            Path(request.artifacts_directory) if request.artifacts_directory else None,
            request.root_components_to_add,
            request.root_components_to_remove,
            request.component_configuration,
            request.failure_policy or "ROLLBACK",
            group=f"thinggroup/{request.group_name}" if request.group_name else LOCAL_GROUP,
            run_with=request.component_run_with,
        )

    def deployment_status(self, deployment_id: str) -> DeploymentStatus:
        """Raises DeploymentNotFound."""
        return self.deployer.find(deployment_id).status

    def deployments(self) -> list[DeploymentStatus]:
        """The last deployments since the start, newest first."""
        return [each.status for each in reversed(self.deployer.deployments.values())]

    async def cancel_deployment(self, deployment_id: str) -> str:
        """Cancel what is QUEUED or IN_PROGRESS. Raises DeploymentNotFound."""
        return self.deployer.cancel(deployment_id)

    async def admin(self, request: Request) -> Response:
        """Answer `foreshore component` and the console; `admin.py` lists the paths."""
        from foreshore.greengrass.admin import answer

        return await answer(self, request)

    # components

    def statuses(self) -> list[ComponentStatus]:
        """Every deployed component, then the nucleus, its CLI and what else of AWS's is deployed."""
        names = [*order_of(self.processes.definitions), NUCLEUS, CLI, *sorted(self.deployer.provided)]
        return [self.details(name) for name in dict.fromkeys(names)]

    def details(self, name: str) -> ComponentStatus:
        """One component. Raises ComponentNotFound."""
        definition = self.processes.definitions.get(name)
        if definition is not None:
            runner = self.processes.runners.get(name)
            state = str(runner.machine.state) if runner else str(State.NEW)
            reason = runner.machine.status_reason if runner else ""
            return self._status(name, definition.version, state, reason)
        if name in PROVIDED:
            # As AWS shows it: the nucleus is FINISHED when it has started (CLI reference, list-installed-components).
            state = str(State.FINISHED if name == NUCLEUS else State.RUNNING)
            return self._status(name, PROVIDED[name], state)
        raise ComponentNotFound(name)

    def _status(self, name: str, version: str, state: str, reason: str = "") -> ComponentStatus:
        is_root = any(name in components for components in self.deployer.groups.values())
        return ComponentStatus(name, version, state, self.configuration.document(name), is_root, reason)

    def runner(self, name: str) -> Runner:
        """A component's runner. Raises ComponentNotFound."""
        runner = self.processes.runners.get(name)
        if runner is None:
            raise ComponentNotFound(name)
        return runner

    def _is_own(self, name: str) -> bool:
        return name in PROVIDED and name not in self.processes.runners

    def report_state(self, name: str, state: str) -> None:
        """A component's own word on its state (UpdateState). Raises ComponentNotFound."""
        self.runner(name).post(Reported(State(state)))

    async def restart_component(self, name: str) -> str | None:
        """Restart it. A BROKEN one is installed anew, where the nucleus would leave it BROKEN."""
        if self._is_own(name):
            return f"{name} is part of the core and can't be restarted alone"
        runner = self.runner(name)
        runner.post(Wish.REINSTALL if runner.machine.state is State.BROKEN else Wish.RESTART)
        return None

    async def stop_component(self, name: str) -> str | None:
        """Stop it until it is restarted, deployed or the core starts again."""
        if self._is_own(name):
            return f"{name} is part of the core and can't be stopped alone"
        self.runner(name).post(Wish.STOP)
        return None

    async def pause_component(self, name: str) -> None:
        """Freeze its processes. Raises ComponentNotFound, or UserError when it is not RUNNING."""
        self._running(name).pause()

    async def resume_component(self, name: str) -> None:
        """Thaw its processes. Raises as `pause_component`."""
        self._running(name).resume()

    def _running(self, name: str) -> Runner:
        runner = self.runner(name)
        if runner.machine.state is not State.RUNNING:
            raise UserError(
                f"{name} is {runner.machine.state}, not RUNNING",
                code="not-running",
                mend="wait until it is RUNNING, or restart it",
            )
        return runner


def factory(
    *, environment: Callable[[], dict[str, str]], run_folder: Path, project: Path | None = None
) -> ComponentsFactory:
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
            settle=context.settle,
            on_state=context.on_state,
            on_deployment=context.on_deployment,
        )

    return make
