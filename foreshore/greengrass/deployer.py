"""Shell: carries deployments out, one after the other: resolve, place, ask, configure, start, wait, remove, roll back.

What is to be done is decided by the pure modules (`resolution.py`, `deployments.py`, `configuration.py`); the order of
things here is the nucleus's (developer guide, "Deployments"; nucleus, DeploymentConfigMerger and its activators).
A deployment that the core's death interrupted is begun again at the next start, or rolled back if it was on its way
back; one that ends the core five times is given up.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from foreshore.background import Background
from foreshore.errors import ForeshoreError, UserError
from foreshore.greengrass.components import (
    ComponentUpdates,
    ConfigurationValidations,
    DeploymentNotFound,
    DeploymentStatus,
    Profile,
    Settle,
    Tokens,
)
from foreshore.greengrass.configuration import (
    Configuration,
    Snapshot,
    snapshot_records,
)
from foreshore.greengrass.deployment_configuration import DeploymentConfiguration, Moment
from foreshore.greengrass.deployment_errors import failure_of
from foreshore.greengrass.deployment_journal import KEPT, UNFINISHED, DeploymentJournal, Record
from foreshore.greengrass.deployments import (
    Definition,
    DeploymentDocument,
    Plan,
    dependers_of,
    joined_run_with,
    plan,
)
from foreshore.greengrass.lifecycle import DependenciesReady, Request, State, bootstrap_outcome
from foreshore.greengrass.processes import Processes, order_of
from foreshore.greengrass.provided import PROVIDED, PROVIDED_VERSIONS
from foreshore.greengrass.recipe_store import RecipeStore
from foreshore.greengrass.recipes import Recipe
from foreshore.greengrass.resolution import resolve
from foreshore.greengrass.run_as import is_root
from foreshore.greengrass.update_questions import ask_leave, ask_validity
from foreshore.greengrass.versions import BadVersion, Range, Version

SETTLE_S = 0.3
MAX_ATTEMPTS = 5
Say = Callable[[str, str], None]
Groups = dict[str, dict[str, str]]


class Deployment:
    """One deployment on its way: what it asks, where it stands, whether it was cancelled."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.id = record.id
        self.document = record.document
        self.group = record.group
        self.status = record.status
        self.progress = record.progress
        self.is_taken_up = False
        self.cancelled = asyncio.Event()
        self.over = asyncio.Event()


@dataclass(slots=True)
class _Before:
    """What a rollback goes back to. `broken` were BROKEN then, or depend HARD on one that was."""

    configuration: Snapshot
    definitions: dict[str, Definition]
    groups: Groups = field(default_factory=dict)
    provided: set[str] = field(default_factory=set)
    broken: frozenset[str] = frozenset()


class Deployer:
    """The deployments of one core. `groups` are the root components of each deployment group."""

    def __init__(
        self,
        *,
        processes: Processes,
        recipes: RecipeStore,
        configuration: Configuration,
        tokens: Tokens,
        updates: ComponentUpdates,
        validations: ConfigurationValidations,
        profile: Profile,
        say: Say,
        on_over: Callable[[Deployment, int], None],
        settle_services: Settle | None = None,
        settle_s: float = SETTLE_S,
    ) -> None:
        self.groups: Groups = {}
        self.provided: set[str] = set()
        self.deployments: dict[str, Deployment] = {}
        self._processes = processes
        self._recipes = recipes
        self._configuration = configuration
        self._tokens = tokens
        self._updates = updates
        self._validations = validations
        self._changes = DeploymentConfiguration(configuration, recipes, profile, say)
        self._say = say
        self._on_over = on_over
        self._settle_services = settle_services
        self._settle_s = settle_s
        self._queue: asyncio.Queue[Deployment] = asyncio.Queue()
        self._worker = Background()
        self._journal: DeploymentJournal | None = None

    # the queue

    def start(self, journal: DeploymentJournal) -> None:
        """Begin to carry deployments out, those that an earlier run left first."""
        self._journal = journal
        self._queue = asyncio.Queue()
        self.deployments = {}
        for record in journal.load():
            deployment = self.deployments[record.id] = Deployment(record)
            if record.status.status in UNFINISHED:
                deployment.is_taken_up = True
                if record.progress.attempts:
                    self._say("WARN", f"deployment {record.id} was interrupted and is taken up again")
                self._queue.put_nowait(deployment)
            else:
                deployment.over.set()
        self._worker.start(self._work)

    async def stop(self) -> None:
        """Leave the deployment in progress as it is; whoever waits for one is told."""
        await self._worker.stop()
        for deployment in self.deployments.values():
            deployment.over.set()

    def enqueue(self, document: DeploymentDocument, group: str, identifier: str = "") -> str:
        """Queue a deployment and keep it; give its id. A delta is joined with its group when its turn comes."""
        status = DeploymentStatus(identifier or str(uuid.uuid4()), "QUEUED", time.time_ns() // 1_000_000)
        deployment = Deployment(Record(status.id, group, document, status))
        if self._journal is not None:
            self._journal.add(deployment.record)
        for old in [each for each in self.deployments.values() if each.over.is_set()][: -KEPT or None]:
            del self.deployments[old.id]
        self.deployments[deployment.id] = deployment
        self._queue.put_nowait(deployment)
        return deployment.id

    def _keep(self, deployment: Deployment) -> None:
        if self._journal is not None:
            self._journal.update(deployment.record)

    def find(self, deployment_id: str) -> Deployment:
        """Raises DeploymentNotFound."""
        deployment = self.deployments.get(deployment_id)
        if deployment is None:
            raise DeploymentNotFound(deployment_id)
        return deployment

    def cancel(self, deployment_id: str) -> str:
        """Cancel what is QUEUED or IN_PROGRESS. Raises DeploymentNotFound."""
        deployment = self.find(deployment_id)
        if deployment.status.status not in UNFINISHED:
            return "Cancellation request is not processed because deployment is already finished"
        deployment.cancelled.set()
        if deployment.status.status == "QUEUED":
            _cancel(deployment.status)
            self._keep(deployment)
        return f"Cancel request submitted. Deployment ID: {deployment_id}"

    def supersede(self, group: str) -> None:
        """Cancel what an earlier run left unfinished for a group, because a deployment of all of it follows: it would
        undo them, and one that hangs must not keep it waiting."""
        for deployment in self.deployments.values():
            if deployment.is_taken_up and deployment.group == group and deployment.status.status in UNFINISHED:
                self._say("WARN", f"deployment {deployment.id} of an earlier run is canceled: another one replaces it")
                self.cancel(deployment.id)

    async def _work(self) -> None:
        while True:
            deployment = await self._queue.get()
            started = time.time_ns()
            if deployment.cancelled.is_set():
                _cancel(deployment.status)
            else:
                await self._carry_out(deployment)
            try:
                self._on_over(deployment, started)
                self._keep(deployment)
            except (OSError, UserError) as error:
                self._say("ERROR", f"what is deployed can't be kept: {error}; free some space and deploy again")
            finally:
                deployment.over.set()

    async def _carry_out(self, deployment: Deployment) -> None:
        status, progress = deployment.status, deployment.progress
        status.status = "IN_PROGRESS"
        progress.attempts += 1
        self._say("INFO", f"deployment {deployment.id} of {deployment.group} begins")
        try:
            self._keep(deployment)
            if progress.attempts > MAX_ATTEMPTS and not progress.rolling_back:
                progress.rolling_back = f"the core died {MAX_ATTEMPTS} times while it was carried out"
            if progress.rolling_back:
                await self._take_back(deployment)
            else:
                await self._deploy(deployment)
        except ForeshoreError as error:
            _fail(status, "FAILED_NO_STATE_CHANGE", *failure_of(error), str(error))
        except Exception as error:
            # A bug or a full disk must fail this deployment, not end the queue.
            cause = f"{type(error).__name__}: {error}"
            _fail(status, "FAILED_UNABLE_TO_ROLLBACK", ["DEPLOYMENT_FAILURE", "IO_ERROR"], ["NUCLEUS_ERROR"], cause)
        level = "INFO" if status.status == "SUCCEEDED" else "ERROR"
        cause = f": {status.failure_cause}" if status.failure_cause else ""
        self._say(level, f"deployment {deployment.id} ended {status.status}{cause}")

    # one deployment

    async def _deploy(self, deployment: Deployment) -> None:
        document = deployment.document.whole(self.groups.get(deployment.group, {}))
        known = self._recipes.known()
        versions = self._resolve(deployment.group, document, known)
        recipes = {name: known[name][version] for name, version in versions.items()}
        written = deployment.progress.configured_ms
        moment = Moment(written or time.time_ns() // 1_000_000, again=written > 0)
        previews = {name: self._changes.preview(recipe, document, moment) for name, recipe in recipes.items()}
        self._changes.refuse_policies(previews)
        texts = {name: str(version) for name, version in versions.items()}

        def configuration_of(name: str) -> Mapping[str, object]:
            return previews[name] if name in previews else self._configuration.document(name)

        def define() -> dict[str, Definition]:
            return {name: self._recipes.define(recipe, configuration_of, texts) for name, recipe in recipes.items()}

        # In a thread, because it copies artifacts; it only reads what the loop holds.
        defined = await asyncio.to_thread(define)
        wanted = {name: self._with_user(definition, document) for name, definition in defined.items()}
        work = plan(self._processes.definitions, wanted, order_of(wanted))
        for name in work.add + work.reinstall + work.restart:
            for note in wanted[name].notes:
                self._say("WARN", f"{name}: {note}")
        try:
            if await self._may_begin(deployment, work, texts, previews):
                changed = [name for name in previews if previews[name] != self._configuration.document(name)]
                touched = [*changed, *work.add, *work.remove, *PROVIDED]
                await self._change(deployment, document, wanted, work, recipes, moment, touched)
        finally:
            if document.notify_components:
                self._updates.announce_post(deployment.id)

    def _with_user(self, definition: Definition, document: DeploymentDocument) -> Definition:
        """The definition with its runWith; what of that has no effect is said."""
        name = definition.name
        old = self._processes.definitions.get(name)
        run_with = joined_run_with(old.run_with if old is not None else {}, document.run_with.get(name))
        for key, value in document.run_with.get(name, {}).items():
            if value is None:
                continue
            if key == "posixUser" and not is_root():
                self._say("WARN", f"runWith.posixUser of {name} has no effect: only root runs components as others")
            elif key != "posixUser":
                self._say("WARN", f"runWith.{key} of {name} has no effect here")
        return replace(definition, run_with=run_with)

    async def _may_begin(
        self,
        deployment: Deployment,
        work: Plan,
        versions: Mapping[str, str],
        previews: Mapping[str, Mapping[str, object]],
    ) -> bool:
        """Ask the components; False when the deployment was cancelled meanwhile. Raises UserError on a refusal."""
        document = deployment.document
        if document.notify_components:
            await ask_leave(
                self._updates,
                deployment.id,
                deployment.cancelled,
                timeout_s=document.update_timeout_s,
                restarting=bool(work.bootstrap),
                say=self._say,
            )
        runners = self._processes.runners
        proposed = {
            name: configuration
            for name, configuration in previews.items()
            if name in runners
            and runners[name].version == versions[name]
            and configuration != self._configuration.document(name)
        }
        if not deployment.cancelled.is_set():
            await ask_validity(self._validations, deployment.id, proposed, document.validation_timeout_s)
        if deployment.cancelled.is_set():
            _cancel(deployment.status)
        return not deployment.cancelled.is_set()

    async def _change(
        self,
        deployment: Deployment,
        document: DeploymentDocument,
        wanted: dict[str, Definition],
        work: Plan,
        recipes: Mapping[str, Recipe],
        moment: Moment,
        touched: list[str],
    ) -> None:
        """Configure and carry the plan out; what came before is kept on disk until it is over."""
        before = self._before(deployment)
        if not moment.again:
            deployment.progress.touched = touched
            deployment.progress.trees = snapshot_records(before.configuration, touched)
            deployment.progress.groups = before.groups
            deployment.progress.configured_ms = moment.timestamp
            self._keep(deployment)
        self.groups = {**self._kept(document), deployment.group: dict(document.components)}
        if work.bootstrap:
            await self._processes.close(list(self._processes.runners))
        used = self._provided_among(dependency for recipe in recipes.values() for dependency in recipe.dependencies)
        self._changes.apply(recipes, document, moment, used, self.provided)
        self.provided = used
        refused = await self._refused_by_services(document)
        is_over = bool(refused) and document.failure_policy == "ROLLBACK"
        broken = [] if is_over else await self._apply(deployment, wanted, work, list(wanted))
        if deployment.cancelled.is_set():
            # What was changed stays; the group's roots are those of the last deployment that ended (nucleus).
            self.groups = before.groups
            _cancel(deployment.status)
        elif broken or refused:
            await self._failed(deployment, broken, before, refused)
        else:
            deployment.status.status, deployment.status.detailed = "SUCCEEDED", "SUCCESSFUL"

    async def _refused_by_services(self, document: DeploymentDocument) -> list[str]:
        """Let the core's own services take their configuration; why those of the deployment refuse it."""
        if self._settle_services is None:
            return []
        refused = await self._settle_services()
        return [f"{name} refuses its configuration: {why}" for name, why in refused.items() if name in document.updates]

    def _before(self, deployment: Deployment) -> _Before:
        """What is there now, or was before the interrupted attempt."""
        definitions = dict(self._processes.definitions)
        runners = self._processes.runners.items()
        broken = {name for name, runner in runners if runner.machine.state is State.BROKEN}
        broken |= dependers_of(broken, definitions)
        progress = deployment.progress
        if not progress.configured_ms:
            snapshot, groups = self._configuration.snapshot(), dict(self.groups)
        else:
            snapshot, groups = self._configuration.snapshot_of(progress.trees), progress.groups
        return _Before(snapshot, definitions, groups, self.provided, frozenset(broken))

    def _provided_among(self, dependencies: Iterable[str]) -> set[str]:
        """AWS's components in use: roots of any group, and dependencies."""
        roots = {name for components in self.groups.values() for name in components}
        return {name for name in roots | set(dependencies) if name in PROVIDED} - self._processes.runners.keys()

    def restore_provided(self) -> None:
        """Find again which of AWS's components are in use, at a start."""
        definitions = self._processes.definitions.values()
        self.provided = self._provided_among(dependency for each in definitions for dependency in each.dependencies)

    async def _take_back(self, deployment: Deployment) -> None:
        """Go on with a rollback that the core's death interrupted."""
        stack = ["DEPLOYMENT_FAILURE", "COMPONENT_UPDATE_ERROR"]
        detailed = "FAILED_NO_STATE_CHANGE"
        if deployment.progress.configured_ms:
            back = await self._roll_back(deployment, self._before(deployment))
            detailed = "FAILED_ROLLBACK_COMPLETE" if back else "FAILED_UNABLE_TO_ROLLBACK"
        _fail(deployment.status, detailed, stack, ["COMPONENT_ERROR"], deployment.progress.rolling_back)

    def _resolve(
        self, group: str, document: DeploymentDocument, known: Mapping[str, Mapping[Version, Recipe]]
    ) -> dict[str, Version]:
        groups = {**self._kept(document), group: document.components}
        roots: dict[str, dict[str, Range]] = {}
        for other, components in groups.items():
            for name, text in components.items():
                try:
                    roots.setdefault(name, {})[other] = Range.parse(text)
                except BadVersion as error:
                    mend = "write a version such as 1.0.0"
                    raise UserError(f"{name}: {error}", code="bad-deployment", mend=mend) from None
        available = {
            name: {version: recipe.dependencies for version, recipe in versions.items()}
            for name, versions in known.items()
        }
        resolution = resolve(roots, available, PROVIDED_VERSIONS)
        for note in resolution.notes:
            self._say("WARN", note)
        return resolution.versions

    def _kept(self, document: DeploymentDocument) -> Groups:
        return {name: roots for name, roots in self.groups.items() if document.keeps(name)}

    # stop and start

    async def _apply(
        self, deployment: Deployment, wanted: dict[str, Definition], work: Plan, tracked: Sequence[str]
    ) -> list[str]:
        """Carry a plan out and wait until what is tracked is settled; give those that failed. What is obsolete goes
        last, when all the rest runs (nucleus, DefaultActivator)."""
        processes = self._processes
        obsolete = {name: processes.definitions[name] for name in work.remove if name in processes.definitions}
        processes.definitions = {**obsolete, **wanted}
        failed = await self._bootstrap(wanted, work)
        if failed:
            return failed
        for name in work.reinstall + work.restart:
            if name in processes.runners:
                processes.runners[name].replace_steps(wanted[name].steps, wanted[name].version)
        for name in order_of(wanted):
            self._set_going(name, work)
        broken = await self._settle(deployment, tracked)
        if not broken:
            await self._remove(work.remove)
            processes.definitions = dict(wanted)
        return broken

    def _set_going(self, name: str, work: Plan) -> None:
        processes = self._processes
        if name not in processes.runners:
            processes.launch(name)
            return
        runner = processes.runners[name]
        runner.post(DependenciesReady(processes.is_ready(name)))
        if name in work.reinstall or runner.machine.state is State.BROKEN:
            runner.post(Request.REINSTALL)
        elif name in work.restart:
            runner.post(Request.RESTART)

    async def _bootstrap(self, wanted: Mapping[str, Definition], work: Plan) -> list[str]:
        """Run the Bootstrap steps in order; give the component whose step failed, if any.

        On a device the nucleus stops every component, runs them, and restarts itself, or the device for exit code 101
        (nucleus, KernelUpdateActivator); here all components are restarted.
        """
        for name in work.bootstrap:
            probe = self._processes.runner_for(wanted[name], lambda name, change: None)
            try:
                code = await probe.bootstrap()
                outcome = bootstrap_outcome(code)
                if outcome == "failed":
                    self._say("ERROR", f"Fail to execute bootstrap step for {name}, exit code: {code}")
            except UserError as error:
                outcome = "failed"
                self._say("ERROR", str(error))
            finally:
                probe.log.close()
            if outcome == "failed":
                return [name]
            word = "device reboot" if outcome == "reboot" else "Nucleus restart"
            self._say("INFO", f"{word} requested to complete bootstrap task of {name}: all components are restarted")
        return []

    async def _remove(self, names: Sequence[str]) -> None:
        await self._processes.close(names, Request.UNINSTALL)
        for name in names:
            self._processes.definitions.pop(name, None)
            self._tokens.withdraw(name)
            self._configuration.remove(name)

    async def _settle(self, deployment: Deployment, names: Sequence[str]) -> list[str]:
        """Wait until all are as asked and stay so for `settle_s`, or one is BROKEN; give the BROKEN ones.

        Run makes a component RUNNING when its process is spawned, so one that dies at once is RUNNING for a moment.
        """
        processes = self._processes
        while not deployment.cancelled.is_set():
            processes.changed.clear()
            machines = {name: processes.runners[name].machine for name in names}
            broken = [name for name, each in machines.items() if each.state is State.BROKEN and each.is_settled]
            if broken:
                return broken
            settled = all(each.is_settled for each in machines.values())
            waits = [
                asyncio.ensure_future(processes.changed.wait()),
                asyncio.ensure_future(deployment.cancelled.wait()),
            ]
            timeout = self._settle_s if settled else None
            try:
                done, _ = await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for each in waits:
                    each.cancel()
            if settled and not done:
                return []
        return []

    # failure

    async def _failed(
        self, deployment: Deployment, broken: list[str], before: _Before, causes: Sequence[str] = ()
    ) -> None:
        cause = "\n".join([*causes, *(self.explain(name) for name in broken)])
        bootstrapped = any(name not in self._processes.runners for name in broken)
        code = "COMPONENT_BOOTSTRAP_ERROR" if bootstrapped else "COMPONENT_BROKEN"
        detailed = "FAILED_ROLLBACK_NOT_REQUESTED"
        # The nucleus rolls a failed Bootstrap back whatever the policy says (KernelUpdateActivator).
        if deployment.document.failure_policy == "ROLLBACK" or bootstrapped:
            deployment.progress.rolling_back = cause
            self._keep(deployment)
            back = await self._roll_back(deployment, before)
            detailed = "FAILED_ROLLBACK_COMPLETE" if back else "FAILED_UNABLE_TO_ROLLBACK"
        stack = ["DEPLOYMENT_FAILURE", "COMPONENT_UPDATE_ERROR", code]
        _fail(deployment.status, detailed, stack, ["COMPONENT_ERROR"], cause)

    def explain(self, name: str) -> str:
        """Why a component is where it is, with the last lines it wrote."""
        runner = self._processes.runners.get(name)
        if runner is None:
            return f"{name}: its Bootstrap step failed; its log says why"
        lines = "".join(f"\n    {line}" for line in runner.log.tail)
        return f"{name} is {runner.machine.state}: {runner.machine.status_reason}{lines and ' It last wrote:'}{lines}"

    async def _roll_back(self, deployment: Deployment, before: _Before) -> bool:
        """Go back to the configuration and components from before; whether all of them run again."""
        self._say("WARN", f"deployment {deployment.id} is rolled back")
        work = plan(self._processes.definitions, before.definitions, order_of(before.definitions))
        # Only what the deployment changed: a component's own writes to another are not undone.
        self._configuration.restore(before.configuration, deployment.progress.touched)
        self.groups = before.groups
        self.provided = before.provided
        if self._settle_services is not None:
            await self._settle_services()
        again = Plan(add=work.add, remove=work.remove, reinstall=work.reinstall, restart=work.restart)
        tracked = [name for name in before.definitions if name not in before.broken]
        return not await self._apply(deployment, before.definitions, again, tracked)


def _fail(status: DeploymentStatus, detailed: str, stack: list[str], types: list[str], cause: str) -> None:
    status.status, status.detailed = "FAILED", detailed
    status.error_stack, status.error_types, status.failure_cause = stack, types, cause


def _cancel(status: DeploymentStatus) -> None:
    status.status, status.detailed = "CANCELED", "CANCELED"
