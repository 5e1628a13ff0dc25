"""Shell: carries deployments out, one after the other: resolve, place, configure, stop and start, wait, roll back.

What is to be done is decided by the pure modules (`resolution.py`, `deployments.py`, `configuration.py`); the order of
things here is the nucleus's (developer guide, "Deployments"; nucleus, DeploymentConfigMerger).
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from foreshore.errors import ForeshoreError, UserError
from foreshore.greengrass.components import (
    ComponentUpdates,
    ConfigurationValidations,
    DeploymentNotFound,
    DeploymentStatus,
    Profile,
    Tokens,
)
from foreshore.greengrass.configuration import DEFAULT_TIMESTAMP, Configuration, Leaf, Snapshot, lite_scalars
from foreshore.greengrass.deployments import (
    ConfigurationUpdate,
    Definition,
    DeploymentDocument,
    Plan,
    malformed_resources,
    plan,
)
from foreshore.greengrass.lifecycle import DependenciesReady, Request, State, bootstrap_outcome
from foreshore.greengrass.processes import Processes, order_of
from foreshore.greengrass.provided import CLI, DEFAULTS, NUCLEUS, PROVIDED, PROVIDED_VERSIONS
from foreshore.greengrass.recipe_store import RecipeStore
from foreshore.greengrass.recipes import Recipe
from foreshore.greengrass.resolution import resolve
from foreshore.greengrass.versions import BadVersion, Range, Version

SETTLE_S = 0.3
KEPT = 100
Say = Callable[[str, str], None]
Groups = dict[str, dict[str, str]]


class Deployment:
    """One deployment on its way: what it asks, where it stands, whether it was cancelled."""

    def __init__(self, document: DeploymentDocument, group: str) -> None:
        self.id = str(uuid.uuid4())
        self.document = document
        self.group = group
        self.status = DeploymentStatus(self.id, "QUEUED", time.time_ns() // 1_000_000)
        self.cancelled = asyncio.Event()
        self.over = asyncio.Event()


@dataclass(slots=True)
class _Before:
    """What a rollback goes back to."""

    configuration: Snapshot
    definitions: dict[str, Definition]
    groups: Groups = field(default_factory=dict)
    provided: set[str] = field(default_factory=set)


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
        settle_services: Callable[[], Awaitable[None]] | None = None,
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
        self._profile = profile
        self._say = say
        self._on_over = on_over
        self._settle_services = settle_services
        self._settle_s = settle_s
        self._queue: asyncio.Queue[Deployment] = asyncio.Queue()
        self._worker: asyncio.Task[None] | None = None

    # the queue

    def start(self) -> None:
        """Begin to carry deployments out."""
        self._queue = asyncio.Queue()
        self._worker = asyncio.ensure_future(self._work())

    async def stop(self) -> None:
        """Leave the deployment in progress as it is; whoever waits for one is told."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
            self._worker = None
        for deployment in self.deployments.values():
            deployment.over.set()

    def enqueue(self, document: DeploymentDocument, group: str) -> str:
        """Queue a deployment; give its id."""
        deployment = Deployment(document, group)
        for old in [each for each in self.deployments.values() if each.over.is_set()][: -KEPT or None]:
            del self.deployments[old.id]
        self.deployments[deployment.id] = deployment
        self._queue.put_nowait(deployment)
        return deployment.id

    def find(self, deployment_id: str) -> Deployment:
        """Raises DeploymentNotFound."""
        deployment = self.deployments.get(deployment_id)
        if deployment is None:
            raise DeploymentNotFound(deployment_id)
        return deployment

    def cancel(self, deployment_id: str) -> str:
        """Cancel what is QUEUED or IN_PROGRESS. Raises DeploymentNotFound."""
        deployment = self.find(deployment_id)
        if deployment.status.status not in ("QUEUED", "IN_PROGRESS"):
            return f"The deployment is {deployment.status.status} and can't be canceled"
        deployment.cancelled.set()
        if deployment.status.status == "QUEUED":
            _cancel(deployment.status)
        return "Deployment cancellation requested"

    async def _work(self) -> None:
        while True:
            deployment = await self._queue.get()
            started = time.time_ns()
            if not deployment.cancelled.is_set():
                await self._carry_out(deployment)
            try:
                self._on_over(deployment, started)
            except OSError as error:
                self._say("ERROR", f"what is deployed can't be kept: {error}; free some space and deploy again")
            finally:
                deployment.over.set()

    async def _carry_out(self, deployment: Deployment) -> None:
        status = deployment.status
        status.status = "IN_PROGRESS"
        self._say("INFO", f"deployment {deployment.id} of {deployment.group} begins")
        try:
            await self._deploy(deployment)
        except ForeshoreError as error:
            stack = [
                "DEPLOYMENT_FAILURE",
                _ERROR_CODES.get(getattr(error, "code", ""), "DEPLOYMENT_DOCUMENT_NOT_VALID"),
            ]
            _fail(status, "FAILED_NO_STATE_CHANGE", stack, ["REQUEST_ERROR"], str(error))
        except Exception as error:
            # A bug or a full disk must fail this deployment, not end the queue.
            cause = f"{type(error).__name__}: {error}"
            _fail(status, "FAILED_UNABLE_TO_ROLLBACK", ["DEPLOYMENT_FAILURE", "IO_ERROR"], ["NUCLEUS_ERROR"], cause)
        level = "INFO" if status.status == "SUCCEEDED" else "ERROR"
        cause = f": {status.failure_cause}" if status.failure_cause else ""
        self._say(level, f"deployment {deployment.id} ended {status.status}{cause}")

    # one deployment

    async def _deploy(self, deployment: Deployment) -> None:
        document = deployment.document
        known = self._recipes.known()
        versions = self._resolve(deployment, known)
        recipes = {name: known[name][version] for name, version in versions.items()}
        now = time.time_ns() // 1_000_000
        previews = {name: self._preview(recipe, document, now) for name, recipe in recipes.items()}
        self._refuse_policies(previews)
        for name in document.run_with:
            self._say("WARN", f"runWith of {name} has no effect: components run as the present user, without limits")
        texts = {name: str(version) for name, version in versions.items()}

        def configuration_of(name: str) -> Mapping[str, object]:
            return previews[name] if name in previews else self._configuration.document(name)

        def define() -> dict[str, Definition]:
            return {name: self._recipes.define(recipe, configuration_of, texts) for name, recipe in recipes.items()}

        # In a thread, because it copies artifacts; it only reads what the loop holds.
        wanted = await asyncio.to_thread(define)
        work = plan(self._processes.definitions, wanted, order_of(wanted))
        for name in work.add + work.reinstall + work.restart:
            for note in wanted[name].notes:
                self._say("WARN", f"{name}: {note}")
        await self._validate(deployment, previews)
        await self._notify(deployment, work)
        if deployment.cancelled.is_set():
            _cancel(deployment.status)
            return
        before = _Before(
            self._configuration.snapshot(), dict(self._processes.definitions), dict(self.groups), self.provided
        )
        self.groups = {**self.groups, deployment.group: dict(document.components)}
        self._configure(recipes, document, now)
        if self._settle_services is not None:
            await self._settle_services()
        broken = await self._apply(deployment, wanted, work)
        self._updates.announce_post(deployment.id, work.touched)
        if deployment.cancelled.is_set():
            _cancel(deployment.status)
        elif broken:
            await self._failed(deployment, broken, before)
        else:
            deployment.status.status, deployment.status.detailed = "SUCCEEDED", "SUCCESSFUL"

    def _resolve(self, deployment: Deployment, known: Mapping[str, Mapping[Version, Recipe]]) -> dict[str, Version]:
        groups = {**self.groups, deployment.group: deployment.document.components}
        roots: dict[str, dict[str, Range]] = {}
        for group, components in groups.items():
            for name, text in components.items():
                try:
                    roots.setdefault(name, {})[group] = Range.parse(text)
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

    # configuration

    def _update_of(self, name: str, document: DeploymentDocument) -> ConfigurationUpdate:
        """A deployment configures its root components only (nucleus, KernelConfigResolver)."""
        update = document.updates.get(name)
        return update if update is not None and name in document.components else ConfigurationUpdate()

    def _defaults(self, recipe: Recipe) -> Mapping[str, object]:
        wish = self._configuration.document(NUCLEUS).get("interpolateComponentConfiguration")
        defaults = self._recipes.defaults(recipe, interpolated=wish in (True, "true"))
        if self._profile == "lite":
            as_text = lite_scalars(defaults)
            return as_text if isinstance(as_text, Mapping) else {}
        return defaults

    def _preview(self, recipe: Recipe, document: DeploymentDocument, now: int) -> dict[str, object]:
        update = self._update_of(recipe.name, document)
        defaults = self._defaults(recipe)
        return self._configuration.preview(
            recipe.name, defaults=defaults, reset=update.reset, merge=update.merge, timestamp=now
        )

    def _configure(self, recipes: Mapping[str, Recipe], document: DeploymentDocument, now: int) -> None:
        for recipe in recipes.values():
            update = self._update_of(recipe.name, document)
            defaults = self._defaults(recipe)
            self._configuration.apply(
                recipe.name, defaults=defaults, reset=update.reset, merge=update.merge, timestamp=now
            )
            self._warn_of_kept_defaults(recipe.name, defaults)
        for name in document.updates:
            if name not in document.components and name in recipes:
                self._say("WARN", f"{name} is no root component of the deployment: its configuration update is ignored")
        self._configure_provided(recipes, document, now)

    def _configure_provided(self, recipes: Mapping[str, Recipe], document: DeploymentDocument, now: int) -> None:
        """Configure AWS's components that this core stands for; forget those that are no longer deployed."""
        used = self._provided_among(dependency for recipe in recipes.values() for dependency in recipe.dependencies)
        named = {name for name in document.updates if name in PROVIDED and name not in recipes}
        for name in sorted(used | named):
            update = document.updates.get(name, ConfigurationUpdate())
            defaults = DEFAULTS.get(name, {})
            self._configuration.apply(name, defaults=defaults, reset=update.reset, merge=update.merge, timestamp=now)
        for name in self.provided - used - named - {NUCLEUS, CLI}:
            self._configuration.remove(name)
        self.provided = used

    def _provided_among(self, dependencies: Iterable[str]) -> set[str]:
        """AWS's components in use: roots of any group, and dependencies."""
        roots = {name for components in self.groups.values() for name in components}
        return {name for name in roots | set(dependencies) if name in PROVIDED} - self._processes.runners.keys()

    def restore_provided(self) -> None:
        """Find again which of AWS's components are in use, at a start."""
        definitions = self._processes.definitions.values()
        self.provided = self._provided_among(dependency for each in definitions for dependency in each.dependencies)

    def _refuse_policies(self, previews: Mapping[str, Mapping[str, object]]) -> None:
        """On lite, a malformed policy resource fails the deployment. Raises UserError."""
        for name, configuration in previews.items() if self._profile == "lite" else ():
            bad = malformed_resources(configuration)
            if bad:
                raise UserError(
                    f"accessControl of {name} has a malformed resource: {bad[0]!r}",
                    code="bad-policy",
                    mend="write ${?} for a question mark, ${$} for a dollar sign",
                )

    def _warn_of_kept_defaults(self, name: str, defaults: Mapping[str, object]) -> None:
        """Tell of a default that this recipe changed and that is not taken, because an older default is there."""
        for path, value in _leaves(defaults):
            node = self._configuration.find(name, path)
            if isinstance(node, Leaf) and node.timestamp == DEFAULT_TIMESTAMP and node.value != value:
                pointer = "/" + "/".join(key.replace("~", "~0").replace("/", "~1") for key in path)
                text = f"{name}: the recipe's default of {pointer} is now {value!r}, but the core keeps {node.value!r}"
                self._say("WARN", f"{text}, as AWS does; RESET {pointer} to take it")

    # asking the components

    async def _validate(self, deployment: Deployment, previews: Mapping[str, Mapping[str, object]]) -> None:
        """Ask the components that validate their own configuration. Raises UserError when one refuses or is silent."""
        for name, proposed in previews.items():
            if proposed == self._configuration.document(name):
                continue
            answer: asyncio.Future[tuple[str, str]] = asyncio.get_running_loop().create_future()
            if not self._validations.ask(name, deployment.id, proposed, _answering(answer)):
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
        touched = [name for name in work.touched if name in self._processes.runners]
        while not deployment.cancelled.is_set():
            round_ = _Answers(set(self._updates.listeners()) & set(touched))
            if not round_.waiting:
                return
            self._updates.announce_pre(deployment.id, touched, round_.take)
            try:
                await asyncio.wait_for(round_.all_in.wait(), document.update_timeout_s)
            except TimeoutError:
                self._say("WARN", f"no answer to the update from {', '.join(sorted(round_.waiting))}: going on")
                return
            if not round_.recheck_ms:
                return
            self._say("INFO", f"the deployment is deferred for {round_.recheck_ms} ms")
            await asyncio.sleep(round_.recheck_ms / 1000)

    # stop and start

    async def _apply(self, deployment: Deployment, wanted: dict[str, Definition], work: Plan) -> list[str]:
        """Carry a plan out and wait until every component is settled; give those that failed."""
        processes = self._processes
        failed = await self._bootstrap(wanted, work)
        await self._remove(work.remove)
        processes.definitions = dict(wanted)
        if failed:
            return failed
        for name in work.reinstall + work.restart:
            if name in processes.runners:
                processes.runners[name].replace_steps(wanted[name].steps, wanted[name].version)
        for name in order_of(wanted):
            self._set_going(name, work)
        return await self._settle(deployment, list(wanted))

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
        """Run the Bootstrap steps in order; give the component whose step failed, if any."""
        for name in work.bootstrap:
            await self._processes.close([name])
            probe = self._processes.runner_for(wanted[name], lambda name, change: None)
            try:
                outcome = bootstrap_outcome(await probe.bootstrap())
            except UserError as error:
                outcome = "failed"
                self._say("ERROR", str(error))
            finally:
                probe.log.close()
            if outcome == "failed":
                return [name]
            if outcome != "done":
                word = "restart the nucleus" if outcome == "restart" else "reboot the device"
                self._say("WARN", f"the Bootstrap step of {name} asks to {word}: all components are restarted")
                await self._processes.close(list(self._processes.runners))
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

    async def _failed(self, deployment: Deployment, broken: list[str], before: _Before) -> None:
        cause = "\n".join(self.explain(name) for name in broken)
        stack = ["DEPLOYMENT_FAILURE", "COMPONENT_UPDATE_ERROR", "COMPONENT_BROKEN"]
        detailed = "FAILED_ROLLBACK_NOT_REQUESTED"
        if deployment.document.failure_policy == "ROLLBACK":
            back = await self._roll_back(deployment, before)
            detailed = "FAILED_ROLLBACK_COMPLETE" if back else "FAILED_UNABLE_TO_ROLLBACK"
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
        await self._remove(work.remove)
        self._configuration.restore(before.configuration)
        self.groups = before.groups
        self.provided = before.provided
        again = Plan(add=work.add, reinstall=work.reinstall, restart=work.restart)
        return not await self._apply(deployment, before.definitions, again)


def _leaves(value: Mapping[str, object], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    for key, child in value.items():
        if isinstance(child, Mapping):
            yield from _leaves(child, (*path, key))
        else:
            yield (*path, key), child


class _Answers:
    """The answers of one round of asking for leave to update."""

    def __init__(self, waiting: set[str]) -> None:
        self.waiting = waiting
        self.recheck_ms = 0
        self.all_in = asyncio.Event()

    def take(self, name: str, recheck_ms: int) -> None:
        self.recheck_ms = max(self.recheck_ms, recheck_ms)
        self.waiting.discard(name)
        if not self.waiting:
            self.all_in.set()


def _answering(answer: asyncio.Future[tuple[str, str]]) -> Callable[[str, str], None]:
    def report(status: str, message: str) -> None:
        if not answer.done():
            answer.set_result((status, message))

    return report


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
    "NotEmulated": "NO_AVAILABLE_COMPONENT_VERSION",
}
