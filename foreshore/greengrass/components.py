"""What the IPC operations ask of component lifecycle and deployments, and what those get from the core: protocols.

`service.Core` builds a `CoreContext` and hands it to a `ComponentsFactory`; what that gives back answers the IPC
operations about components. Pure: no process, file or clock here; times are ms since the epoch.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from foreshore.greengrass.configuration import Configuration
from foreshore.seams import EmitLog, EmitSpan

Profile = Literal["classic", "lite"]
TOKEN_LENGTH = 16
TOKEN_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class ComponentNotFound(LookupError):
    """No component of that name is on the core."""


class DeploymentNotFound(LookupError):
    """No local deployment of that id is known."""


@dataclass(slots=True)
class ComponentStatus:
    """One component. `state` as ListComponents spells it: NEW INSTALLED STARTING RUNNING STOPPING ERRORED BROKEN
    FINISHED; `reason` says why it is in it, `is_root` whether a deployment names it."""

    name: str
    version: str
    state: str
    configuration: dict[str, object] = field(default_factory=dict)
    is_root: bool = False
    reason: str = ""


@dataclass(slots=True)
class LocalDeploymentRequest:
    """CreateLocalDeployment's members, absent ones empty. `component_configuration` is {name: {"MERGE", "RESET"}}."""

    group_name: str = ""
    root_components_to_add: dict[str, str] = field(default_factory=dict)
    root_components_to_remove: list[str] = field(default_factory=list)
    component_configuration: dict[str, dict[str, object]] = field(default_factory=dict)
    component_run_with: dict[str, dict[str, object]] = field(default_factory=dict)
    recipe_directory: str = ""
    artifacts_directory: str = ""
    failure_policy: str = "ROLLBACK"


@dataclass(slots=True)
class DeploymentStatus:
    """One local deployment. `status`: QUEUED IN_PROGRESS SUCCEEDED FAILED CANCELED. `detailed`: one of
    DetailedDeploymentStatus, or "" while it is not over."""

    id: str
    status: str
    created_ms: int
    detailed: str = ""
    error_stack: list[str] = field(default_factory=list)
    error_types: list[str] = field(default_factory=list)
    failure_cause: str = ""


class Components(Protocol):
    """Lifecycle and deployments as the IPC operations see them."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def statuses(self) -> list[ComponentStatus]:
        """Every component, in any order."""
        ...

    def details(self, name: str) -> ComponentStatus:
        """One component. Raises ComponentNotFound."""
        ...

    def report_state(self, name: str, state: str) -> None:
        """A component says of itself RUNNING or ERRORED (UpdateState). Raises ComponentNotFound."""
        ...

    async def restart_component(self, name: str) -> str | None:
        """Restart it; None when asked for, or why it can't be. Raises ComponentNotFound."""
        ...

    async def stop_component(self, name: str) -> str | None:
        """Stop it; None when asked for, or why it can't be. Raises ComponentNotFound."""
        ...

    async def pause_component(self, name: str) -> None:
        """Freeze its processes. Raises ComponentNotFound, or UserError when it is not RUNNING."""
        ...

    async def resume_component(self, name: str) -> None:
        """Thaw its processes. Raises as `pause_component`."""
        ...

    async def create_local_deployment(self, request: LocalDeploymentRequest) -> str:
        """Queue a local deployment and give its id. Raises UserError when the request can't be one."""
        ...

    def deployment_status(self, deployment_id: str) -> DeploymentStatus:
        """Raises DeploymentNotFound."""
        ...

    def deployments(self) -> list[DeploymentStatus]:
        """Local deployments, newest first."""
        ...

    async def cancel_deployment(self, deployment_id: str) -> str:
        """Cancel what is QUEUED or IN_PROGRESS; a message for the user. Raises DeploymentNotFound."""
        ...


class Tokens:
    """SVCUIDs: which component holds which authentication token. `letters(n)` gives n random indexes below 26."""

    def __init__(self, letters: Callable[[int], list[int]]) -> None:
        self._letters = letters
        self._by_component: dict[str, str] = {}
        self._by_token: dict[str, str] = {}

    def issue(self, component: str) -> str:
        """The component's SVCUID (16 upper-case letters), made at the first call."""
        token = self._by_component.get(component)
        if token is None:
            token = "".join(TOKEN_LETTERS[index] for index in self._letters(TOKEN_LENGTH))
            self._by_component[component] = token
            self._by_token[token] = component
        return token

    def withdraw(self, component: str) -> None:
        """Make the component's token worthless."""
        token = self._by_component.pop(component, None)
        if token is not None:
            del self._by_token[token]

    def component_of(self, token: str) -> str | None:
        """Who holds the token, or None."""
        return self._by_token.get(token)


PreUpdate = Callable[[dict[str, object]], None]


class ComponentUpdates:
    """SubscribeToComponentUpdates and DeferComponentUpdate: who is asked before an update, and what each answered."""

    def __init__(self) -> None:
        self._listeners: dict[str, list[PreUpdate]] = {}
        self._waiting: dict[str, dict[str, Callable[[str, int], None]]] = {}

    def listen(self, component: str, send: PreUpdate) -> Callable[[], None]:
        """Register a stream; `send` gets ComponentUpdatePolicyEvents. Gives the way to stop."""
        listeners = self._listeners.setdefault(component, [])
        listeners.append(send)

        def stop() -> None:
            if send in listeners:
                listeners.remove(send)

        return stop

    def listeners(self) -> list[str]:
        """Components that asked to be told, sorted."""
        return sorted(name for name, sends in self._listeners.items() if sends)

    def announce_pre(
        self, deployment_id: str, on_answer: Callable[[str, int], None], *, restarting: bool = False
    ) -> list[str]:
        """Ask every listener. `on_answer(component, recheck_after_ms)` is called for each DeferComponentUpdate (0 means
        go on). Gives the names asked; the caller keeps the time limit."""
        asked = self.listeners()
        self._waiting[deployment_id] = dict.fromkeys(asked, on_answer)
        body = {"deploymentId": deployment_id, "isGgcRestarting": restarting}
        for name in asked:
            for send in list(self._listeners[name]):
                send({"preUpdateEvent": dict(body)})
        return asked

    def announce_post(self, deployment_id: str) -> None:
        """Tell every listener that the update is over, or will not be, and stop taking deferrals for it."""
        self._waiting.pop(deployment_id, None)
        for name in self.listeners():
            for send in list(self._listeners[name]):
                send({"postUpdateEvent": {"deploymentId": deployment_id}})

    def defer(self, component: str, deployment_id: str, recheck_after_ms: int) -> bool:
        """A component's answer. False when nobody waits for it (timed out, or never asked)."""
        on_answer = self._waiting.get(deployment_id, {}).pop(component, None)
        if on_answer is None:
            return False
        on_answer(component, recheck_after_ms)
        return True


Settle = Callable[[], Awaitable[Mapping[str, str]]]
Validate = Callable[[dict[str, object]], None]
OnReport = Callable[[str, str], None]


class ConfigurationValidations:
    """SubscribeToValidateConfigurationUpdates and SendConfigurationValidityReport."""

    def __init__(self) -> None:
        self._listeners: dict[str, Validate] = {}
        self._waiting: dict[tuple[str, str], OnReport] = {}

    def listen(self, component: str, send: Validate) -> Callable[[], None]:
        """Register the component's validator; `send` gets ValidateConfigurationUpdateEvents. The first one stays."""
        self._listeners.setdefault(component, send)

        def stop() -> None:
            if self._listeners.get(component) is send:
                del self._listeners[component]

        return stop

    def ask(self, component: str, deployment_id: str, configuration: Mapping[str, object], report: OnReport) -> bool:
        """Ask a component whether a new configuration is good; `report(status, message)` is called once with ACCEPTED
        or REJECTED. False when it has no validator (go on). The caller keeps the time limit and calls `abandon`."""
        send = self._listeners.get(component)
        if send is None:
            return False
        self._waiting[component, deployment_id] = report
        body = {"configuration": dict(configuration), "deploymentId": deployment_id}
        send({"validateConfigurationUpdateEvent": body})
        return True

    def abandon(self, component: str, deployment_id: str) -> None:
        """Stop waiting for a report."""
        self._waiting.pop((component, deployment_id), None)

    def report(self, component: str, deployment_id: str, status: str, message: str) -> bool:
        """A component's verdict. False when nobody waits for it."""
        on_report = self._waiting.pop((component, deployment_id), None)
        if on_report is None:
            return False
        on_report(status, message)
        return True


OnState = Callable[[str, str], None]
OnDeployment = Callable[[str, DeploymentStatus], None]


@dataclass(slots=True)
class CoreContext:
    """What a core gives its component lifecycle. `ipc_socket` is absolute; `environment` is added to every step's;
    `settle` waits until the core's own services have their present configuration, and gives those that refuse it;
    `on_state(component, state)` and `on_deployment(group, how it ended)` hear what happens."""

    root: Path
    thing: str
    region: str
    account: str
    profile: Profile
    ipc_socket: Path
    configuration: Configuration
    tokens: Tokens
    updates: ComponentUpdates
    validations: ConfigurationValidations
    span: EmitSpan
    log: EmitLog
    environment: dict[str, str] = field(default_factory=dict)
    settle: Settle | None = None
    on_state: OnState | None = None
    on_deployment: OnDeployment | None = None


ComponentsFactory = Callable[[CoreContext], Components]
