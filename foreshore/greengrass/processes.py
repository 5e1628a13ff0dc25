"""Shell: all component processes of one core: launched, told of their dependencies, closed in order."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from foreshore.greengrass.component_log import ComponentLog, Logging
from foreshore.greengrass.components import Tokens
from foreshore.greengrass.deployments import Definition
from foreshore.greengrass.layout import Layout
from foreshore.greengrass.lifecycle import Changed, DependenciesReady, Request, State
from foreshore.greengrass.nucleus_settings import NucleusSettings
from foreshore.greengrass.provided import GGC_VERSION
from foreshore.greengrass.recipes import Step
from foreshore.greengrass.resolution import start_order
from foreshore.greengrass.run_as import Identity, find_identity, hand_over, is_root
from foreshore.greengrass.runner import Runner
from foreshore.seams import EmitLog

RELATIVE_SOCKET_FROM = 108


class Surroundings:
    """What the steps of every component get: folders, identity, socket, environment."""

    def __init__(
        self,
        *,
        root: Path,
        thing: str,
        region: str,
        environment: Callable[[], dict[str, str]],
        ipc_socket: Path,
        tokens: Tokens,
        log: EmitLog,
        run_folder: Path,
    ) -> None:
        self.root = root
        self.thing = thing
        self.region = region
        self.environment = environment
        self.ipc_socket = ipc_socket
        self.tokens = tokens
        self.log = log
        self.run_folder = run_folder
        self.layout = Layout(root)
        self.settings = NucleusSettings()
        self.logging = Logging()

    def identity_of(self, definition: Definition) -> Identity | None:
        """Whom the component's steps run as, its files handed over; None for the present user. Raises UserError."""
        wanted = str(definition.run_with.get("posixUser") or self.settings.posix_user)
        if not wanted or not is_root():
            return None
        identity = find_identity(wanted)
        name, version = definition.name, definition.version
        folders = [(self.layout.artifacts(name, version), False), (self.layout.unarchived(name, version), False)]
        hand_over([(Path(folder), itself) for folder, itself in [*folders, (self.layout.work(name), True)]], identity)
        return identity

    def environment_of(self, component: str, step: Step) -> dict[str, str]:
        """The environment of one step: this process's without AWS_*, the core's, the nucleus's own, then Setenv.

        A core device has no AWS_PROFILE or keys of a developer's; the component must not find them here either.
        """
        work = str(self.layout.work(component))
        socket = str(self.ipc_socket)
        token = self.tokens.issue(component)
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
        relative = os.path.relpath(socket, work) if len(socket.encode()) >= RELATIVE_SOCKET_FROM else socket
        return {
            **inherited,
            **self.settings.environment,
            "GG_ROOT_CA_PATH": "",
            **self.environment(),
            "GGC_VERSION": GGC_VERSION,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_IOT_THING_NAME": self.thing,
            "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH": socket,
            "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT": relative,
            "SVCUID": token,
            "AWS_CONTAINER_AUTHORIZATION_TOKEN": token,
            **step.setenv,
        }


class Processes:
    """The runners of a core, and the definitions they run. `changed` is set at every change of a state."""

    def __init__(
        self,
        surroundings: Surroundings,
        on_broken: Callable[[str, str], None],
        on_state: Callable[[str, str], None] | None = None,
    ) -> None:
        self.runners: dict[str, Runner] = {}
        self.definitions: dict[str, Definition] = {}
        self.changed = asyncio.Event()
        self._surroundings = surroundings
        self._on_broken = on_broken
        self._on_state = on_state

    def runner_for(self, definition: Definition, on_change: Callable[[str, Changed], None]) -> Runner:
        """A runner that is not started."""
        around, name = self._surroundings, definition.name
        return Runner(
            name,
            definition.steps,
            version=definition.version,
            shell=lambda: around.settings.posix_shell,
            run_as=lambda: around.identity_of(self.definitions.get(name, definition)),
            root=around.root,
            cwd=Path(around.layout.work(name)),
            environment=lambda step: around.environment_of(name, step),
            log=ComponentLog(Path(around.layout.log(name)), name, around.log, around.logging),
            run_folder=around.run_folder,
            on_change=on_change,
            error_reset_s=definition.error_reset_s,
        )

    def launch(self, name: str) -> None:
        """Start a defined component that has no runner."""
        runner = self.runner_for(self.definitions[name], self._on_change)
        self.runners[name] = runner
        runner.post(DependenciesReady(self.is_ready(name)))
        runner.post(Request.START)

    def launch_all(self) -> None:
        """Start every defined component that has no runner, dependencies first."""
        for name in order_of(self.definitions):
            if name not in self.runners:
                self.launch(name)

    def is_ready(self, component: str) -> bool:
        """Whether all HARD dependencies of a component are ready; those the core provides always are."""
        wishes = self.definitions[component].dependencies
        return all(self._dependency_ready(name) for name, hard in wishes.items() if hard and name in self.definitions)

    def _dependency_ready(self, name: str) -> bool:
        runner = self.runners.get(name)
        return runner is not None and runner.machine.is_ready

    def _on_change(self, name: str, change: Changed) -> None:
        self.changed.set()
        for other, definition in self.definitions.items():
            if definition.dependencies.get(name) and other in self.runners:
                self.runners[other].post(DependenciesReady(self.is_ready(other)))
        if change.new is State.BROKEN:
            self._on_broken(name, change.reason)
        if self._on_state is not None:
            self._on_state(name, str(change.new))

    async def close(self, names: Sequence[str], request: Request = Request.CLOSE) -> None:
        """Close components, each after those that depend on it HARD, and forget their runners."""
        closing: dict[str, asyncio.Task[None]] = {}
        known = {name: self.definitions[name] for name in names if name in self.runners and name in self.definitions}
        for name in reversed(order_of(known)):
            dependents = [closing[other] for other in closing if known[other].dependencies.get(name)]
            closing[name] = asyncio.ensure_future(self._close_after(dependents, name, request))
        if closing:
            await asyncio.gather(*closing.values())

    async def _close_after(self, dependents: Sequence[asyncio.Task[None]], name: str, request: Request) -> None:
        if dependents:
            await asyncio.wait(dependents)
        await self.runners[name].close(request)
        del self.runners[name]


def order_of(definitions: Mapping[str, Definition]) -> list[str]:
    """Components with those they depend on first."""
    return start_order({name: set(each.dependencies) & definitions.keys() for name, each in definitions.items()})
