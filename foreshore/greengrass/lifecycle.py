"""The life of one component: states, what may follow what, and what to do next. Pure: processes are the runner's.

`Machine.handle(event, now)` is the one door: it takes what happened (`Event`) and gives what to do (`Command`). Time is
an argument, in seconds. A step in flight is named by a run number; news of an older run is ignored.

Source: Greengrass developer guide, "Component lifecycle" and "Component recipe reference"; nucleus 2.18 for what the
guide leaves open (which states count errors, where an error leads).

    NEW ──install──> INSTALLED ──dependencies──> STARTING ──startup or run──> RUNNING
     ^                   ^                          │                            │
     │                   └───────── STOPPING <──────┴──── error, stop, restart ──┘
     └─ reinstall            │
                          FINISHED            three errors in a row from one state: BROKEN
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import NamedTuple

from foreshore.greengrass.recipes import Step

MAX_ERRORS = 3
ERROR_RESET_S = 3600.0
TIMEOUTS_S: Mapping[str, float | None] = {
    "bootstrap": 120.0,
    "install": 120.0,
    "startup": 120.0,
    "run": None,
    "shutdown": 15.0,
    "recover": 60.0,
    "uninstall": 120.0,
}
BOOTSTRAP_RESTART = 100
BOOTSTRAP_REBOOT = 101


class State(StrEnum):
    """Component states, as ListComponents and the logs spell them."""

    NEW = "NEW"
    INSTALLED = "INSTALLED"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    STOPPING = "STOPPING"
    ERRORED = "ERRORED"
    BROKEN = "BROKEN"
    FINISHED = "FINISHED"
    UNINSTALLING = "UNINSTALLING"
    UNINSTALLED = "UNINSTALLED"


MAY_REPORT: Mapping[State, frozenset[State]] = {
    State.NEW: frozenset({State.ERRORED}),
    State.STARTING: frozenset({State.RUNNING, State.ERRORED, State.FINISHED}),
    State.RUNNING: frozenset({State.ERRORED, State.FINISHED}),
}
"""Which state a component or its step may report from which (UpdateState takes RUNNING and ERRORED of these). What a
component says while it is being stopped changes nothing."""

COUNTS_ERRORS = frozenset({State.NEW, State.STARTING, State.RUNNING})

TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.NEW: frozenset({State.INSTALLED, State.ERRORED, State.BROKEN, State.FINISHED}),
    State.INSTALLED: frozenset({State.NEW, State.STARTING, State.FINISHED}),
    State.STARTING: frozenset({State.RUNNING, State.FINISHED, State.STOPPING, State.ERRORED, State.BROKEN}),
    State.RUNNING: frozenset({State.STOPPING, State.ERRORED, State.BROKEN}),
    State.STOPPING: frozenset({State.NEW, State.INSTALLED, State.FINISHED, State.ERRORED}),
    State.ERRORED: frozenset({State.NEW, State.INSTALLED, State.STOPPING, State.FINISHED, State.UNINSTALLED}),
    State.BROKEN: frozenset({State.NEW, State.UNINSTALLING}),
    State.FINISHED: frozenset({State.NEW, State.INSTALLED, State.UNINSTALLING}),
    State.UNINSTALLING: frozenset({State.UNINSTALLED}),
    State.UNINSTALLED: frozenset(),
}
"""Every change of state that can happen; `Machine` never makes another."""

_TEXTS: Mapping[str, str] = {
    "INSTALL_ERROR": "An error occurred during installation.",
    "INSTALL_TIMEOUT": "The install script did not finish in time.",
    "INSTALL_CONFIG_NOT_VALID": "The install section of the recipe is not valid.",
    "INSTALL_IO_ERROR": "The install script could not be started.",
    "STARTUP_ERROR": "An error occurred during startup.",
    "STARTUP_TIMEOUT": "The startup script did not finish in time.",
    "STARTUP_CONFIG_NOT_VALID": "The startup section of the recipe is not valid.",
    "STARTUP_IO_ERROR": "The startup script could not be started.",
    "RUN_ERROR": "An error occurred while the component was running.",
    "RUN_TIMEOUT": "The run script did not finish in time.",
    "RUN_CONFIG_NOT_VALID": "The run section of the recipe is not valid.",
    "RUN_IO_ERROR": "The run script could not be started.",
    "SHUTDOWN_ERROR": "An error occurred during shutdown.",
    "SHUTDOWN_TIMEOUT": "The shutdown script did not finish in time.",
}
_ERROR_OF: Mapping[State, str] = {
    State.NEW: "INSTALL_ERROR",
    State.STARTING: "STARTUP_ERROR",
    State.RUNNING: "RUN_ERROR",
    State.STOPPING: "SHUTDOWN_ERROR",
}


class Request(StrEnum):
    """What may be asked of a component. CLOSE (the core stops) and UNINSTALL end it for good: nothing is heeded after
    them. The others follow the nucleus."""

    START = "start"
    RESTART = "restart"
    REINSTALL = "reinstall"
    STOP = "stop"
    UNINSTALL = "uninstall"
    CLOSE = "close"


class StepStarted(NamedTuple):
    """The step's process runs."""

    step: str
    run: int


class StepEnded(NamedTuple):
    """The step's process ended; `code` as a shell gives it (minus the signal's number when one ended it)."""

    step: str
    run: int
    code: int


class StepSkipped(NamedTuple):
    """The step's Skipif held."""

    step: str
    run: int


class StepFailed(NamedTuple):
    """The step could not be tried: `kind` is CONFIG_NOT_VALID or IO_ERROR."""

    step: str
    run: int
    kind: str


class StepTimedOut(NamedTuple):
    """The step's time was over; its process still runs."""

    step: str
    run: int


class Killed(NamedTuple):
    """No process of the component is left."""

    run: int


class Reported(NamedTuple):
    """The component reported a state of its own (UpdateState)."""

    state: State


class DependenciesReady(NamedTuple):
    """Whether every HARD dependency is ready now."""

    ready: bool


Event = (
    Request | StepStarted | StepEnded | StepSkipped | StepFailed | StepTimedOut | Killed | Reported | DependenciesReady
)


class RunStep(NamedTuple):
    """Start a step; tell StepStarted, then its end, and StepTimedOut after `timeout_s` seconds (None: never)."""

    step: str
    run: int
    timeout_s: float | None


class KillProcesses(NamedTuple):
    """End every process of the component (SIGTERM, then SIGKILL); tell Killed."""

    run: int


class Changed(NamedTuple):
    """The state changed; `code` and `reason` say why when it is an error."""

    old: State
    new: State
    code: str
    reason: str


Command = RunStep | KillProcesses | Changed


def bootstrap_outcome(code: int) -> str:
    """`done`, `restart` (the nucleus), `reboot` or `failed`, by the bootstrap script's exit code."""
    return {0: "done", BOOTSTRAP_RESTART: "restart", BOOTSTRAP_REBOOT: "reboot"}.get(code, "failed")


def timeout_of(name: str, step: Step) -> float | None:
    """The step's own timeout, or the default of its kind; seconds, None for no limit."""
    return TIMEOUTS_S[name] if step.timeout_s is None else step.timeout_s


class Machine:
    """One component's state. Read `state`, `status_code`, `status_reason`; change it through `handle` only."""

    def __init__(self, steps: Mapping[str, Step], *, error_reset_s: float = ERROR_RESET_S) -> None:
        self.steps = dict(steps)
        self.state = State.NEW
        self.status_code = "NONE"
        self.status_reason = ""
        self.startup_failed = False
        self._error_reset_s = error_reset_s
        self._desired: list[State] = []
        self._errors: dict[State, list[float]] = {}
        self._run = 0
        self._flight: tuple[str, int] | None = None
        self._main: tuple[str, int] | None = None
        self._killing: int | None = None
        self._after_kill: Callable[[], None] | None = None
        self._before_error = State.NEW
        self._ready = False
        self._closed = False
        self._uninstalling = False
        self._commands: list[Command] = []
        self._now = 0.0

    # what others ask

    @property
    def is_ready(self) -> bool:
        """Whether components that depend on this one HARD may start."""
        stopping = self.state is State.STOPPING and not self.startup_failed
        return stopping or self.state in (State.RUNNING, State.FINISHED)

    @property
    def generation(self) -> int:
        """A number that grows with every step begun: equal numbers mean that nothing was restarted."""
        return self._run

    @property
    def reached(self) -> bool:
        """Whether it is where it was asked to be."""
        return all(state is self.state for state in self._desired)

    @property
    def is_settled(self) -> bool:
        """Where a deployment may stop waiting: RUNNING or FINISHED as asked, or BROKEN."""
        if self.state is State.BROKEN:
            return State.NEW not in self._desired
        return self.reached and self.state in (State.RUNNING, State.FINISHED)

    @property
    def is_closed(self) -> bool:
        """Whether, after CLOSE or UNINSTALL, nothing is left to be done."""
        if self._flight is not None or self._killing is not None:
            return False
        if self._uninstalling:
            return self.state is State.UNINSTALLED
        return self._closed and self.state in (State.NEW, State.FINISHED, State.BROKEN, State.UNINSTALLED)

    def may_report(self, state: State) -> bool:
        """Whether the component may report this state now."""
        return self._killing is None and state in MAY_REPORT.get(self.state, frozenset())

    # the one door

    def handle(self, event: Event, now: float) -> list[Command]:
        """Take an event at a time in seconds (any steady clock); give the commands that follow, in order."""
        self._now = now
        self._commands = []
        if isinstance(event, Request):
            self._request(event)
        elif isinstance(event, Killed):
            self._killed(event)
        elif isinstance(event, Reported):
            if self.may_report(event.state):
                self._report(event.state)
        elif isinstance(event, DependenciesReady):
            self._dependencies(event.ready)
        else:
            self._step_news(event)
        return self._commands

    # requests

    def _request(self, request: Request) -> None:
        if request is Request.CLOSE:
            self._close()
            return
        if (self._closed or self._uninstalling) and request is not Request.UNINSTALL:
            return  # It is on its way out: who waits for its end must not wait for ever.
        if request is Request.START:
            self._want_running()
        elif request is Request.STOP:
            self._want_stopped()
        elif request is Request.REINSTALL:
            self._desired = [State.NEW, State.RUNNING]
        elif request is Request.UNINSTALL:
            self._uninstalling = True
            self._desired = [State.UNINSTALLED] if self.state is State.BROKEN else [State.FINISHED, State.UNINSTALLED]
            if self.state is State.NEW:
                self._kill_then(lambda: self._enter(State.FINISHED))
                return
        elif not (self.state is State.NEW and not self._desired):
            if State.NEW in self._desired:
                self._desired = [*self._desired[: self._desired.index(State.NEW) + 1], State.RUNNING]
            else:
                self._desired = [State.INSTALLED, State.RUNNING]
        self._advance()

    def _want_running(self) -> None:
        if not self._desired or self._desired == [State.FINISHED]:
            self._desired = [State.RUNNING]
        elif self._desired[-1] is State.FINISHED:
            self._desired[-1] = State.RUNNING
        elif self._desired[-1] is not State.RUNNING:
            self._desired.append(State.RUNNING)

    def _want_stopped(self) -> None:
        if State.NEW in self._desired:
            self._desired = [*self._desired[: self._desired.index(State.NEW) + 1], State.FINISHED]
        else:
            self._desired = [State.FINISHED]

    def _close(self) -> None:
        self._closed = True
        self._uninstalling = self.state in (State.UNINSTALLING, State.UNINSTALLED)
        self._desired = [State.FINISHED]
        if self.state in (State.NEW, State.ERRORED):
            self._kill_then(lambda: self._enter(State.FINISHED))
        elif self.state is State.INSTALLED:
            self._enter(State.FINISHED)
        else:
            self._advance()

    def _dependencies(self, ready: bool) -> None:
        self._ready = ready
        if ready:
            if self.state is State.INSTALLED:
                self._advance()
        elif self.state in (State.STARTING, State.RUNNING):
            self._request(Request.RESTART)

    # states

    def _advance(self) -> None:
        """Take the next step towards the first desired state, when the present one lets us."""
        while self._desired and self._desired[0] is self.state:
            self._desired.pop(0)
        if self._killing is not None or not self._desired:
            return
        wanted = self._desired[0]
        if self.state is State.NEW:
            if self._flight is None:
                self._begin("install", otherwise=lambda: self._report(State.INSTALLED))
        elif self.state is State.INSTALLED:
            if wanted is not State.RUNNING:
                self._move_on(wanted)
            elif self._ready:
                self._enter(State.STARTING)
        elif self.state is State.STARTING:
            if wanted is not State.RUNNING:
                self._report(State.STOPPING)
            elif self._flight is None:
                self._begin("startup", otherwise=self._begin_run)
        elif self.state is State.RUNNING:
            self._report(State.STOPPING)
        elif self.state in (State.FINISHED, State.UNINSTALLED):
            self._move_on(wanted)
        elif self.state is State.BROKEN:
            self._leave_broken(wanted)

    def _begin(self, step: str, otherwise: Callable[[], None]) -> None:
        """Run a step, or do `otherwise` when the recipe has none."""
        if step not in self.steps:
            otherwise()
            return
        self._run += 1
        self._flight = (step, self._run)
        if step in ("startup", "run"):
            self._main = self._flight
        self._commands.append(RunStep(step, self._run, timeout_of(step, self.steps[step])))

    def _begin_run(self) -> None:
        self._begin("run", otherwise=lambda: self._report(State.FINISHED))

    def _enter(self, state: State, code: str = "NONE", reason: str = "") -> None:
        old = self.state
        self.state = state
        self.status_code, self.status_reason = code, reason
        self._commands.append(Changed(old, state, code, reason))
        if state is State.STOPPING:
            self._flight = None
            self._main = None
            self._begin("shutdown", otherwise=self._finish_stopping)
        elif state is State.ERRORED:
            self._flight = None
            self._before_error = old
            self._begin("recover", otherwise=lambda: self._after_error(old))
        elif state is State.BROKEN:
            self._flight = None
            self._main = None
            if old is not State.NEW:
                self._begin("shutdown", otherwise=lambda: self._kill_then(self._advance))
            else:
                self._kill_then(self._advance)
        elif state is State.UNINSTALLING:
            self._begin("uninstall", otherwise=lambda: self._enter(State.UNINSTALLED))
        else:
            self._advance()

    def _report(self, state: State, code: str = "", exit_code: int | None = None) -> None:
        """Go to a state, counting errors: the third in a row from one state goes to BROKEN instead."""
        if state is State.ERRORED:
            code = code or _ERROR_OF.get(self.state, "NONE")
            if self.state in COUNTS_ERRORS:
                self._count_error()
        else:
            code = "NONE"
            self._errors.pop(self.state, None)
        if self.state is State.STARTING and state is State.FINISHED:
            self._want_stopped()
        reason = _TEXTS.get(code, "")
        if exit_code is not None and state is State.ERRORED:
            reason += f" The script exited with code {exit_code}."
        if len(self._errors.get(self.state, ())) >= MAX_ERRORS:
            state = State.BROKEN
        if state is State.FINISHED and self.state is State.RUNNING:
            self._want_stopped()
            state = State.STOPPING
        self._enter(state, code, reason)

    def _count_error(self) -> None:
        times = self._errors.setdefault(self.state, [])
        if times and self._now - times[-1] >= self._error_reset_s:
            times.clear()
        times.append(self._now)

    def _move_on(self, wanted: State) -> None:
        """From a state where nothing runs to the one wanted, or to the first on the way there."""
        if self._uninstalling and self.state in (State.FINISHED, State.UNINSTALLED):
            if self.state is State.FINISHED:
                self._enter(State.UNINSTALLING)
        elif wanted is State.NEW:
            self._enter(State.NEW)
        elif wanted in (State.INSTALLED, State.RUNNING):
            self._enter(State.INSTALLED)
        elif wanted is State.FINISHED:
            self._enter(State.FINISHED)

    def _leave_broken(self, wanted: State) -> None:
        if self._flight is not None:
            return
        if wanted is State.NEW:
            self._errors.clear()
            self._enter(State.NEW)
        elif self._uninstalling:
            self._enter(State.UNINSTALLING)

    def _after_error(self, before: State) -> None:
        if not self._desired:
            self._desired = [State.RUNNING]
        if before in (State.STARTING, State.RUNNING):
            self.startup_failed = before is State.STARTING
            self._enter(State.STOPPING)
        elif before is State.NEW:
            self._enter(State.NEW)
        else:
            self.startup_failed = False
            self._leave_stopping()

    # stopping

    def _kill_then(self, then: Callable[[], None]) -> None:
        self._run += 1
        self._flight = None
        self._main = None
        self._killing = self._run
        self._after_kill = then
        self._commands.append(KillProcesses(self._run))

    def _killed(self, event: Killed) -> None:
        if event.run != self._killing:
            return
        then, self._after_kill, self._killing = self._after_kill, None, None
        if then is not None:
            then()

    def _finish_stopping(self) -> None:
        self._kill_then(self._stopped)

    def _stopped(self) -> None:
        self.startup_failed = False
        self._leave_stopping()

    def _leave_stopping(self) -> None:
        while self._desired and self._desired[0] is State.FINISHED and len(self._desired) > 1:
            if self._uninstalling:
                break
            self._desired.pop(0)
        self._move_on_from_stop(State.FINISHED if self._closed or not self._desired else self._desired[0])

    def _move_on_from_stop(self, wanted: State) -> None:
        if wanted in (State.UNINSTALLED, State.UNINSTALLING):
            wanted = State.FINISHED
        self._move_on(wanted)

    # news of steps

    def _step_news(self, event: StepStarted | StepEnded | StepSkipped | StepFailed | StepTimedOut) -> None:
        known = (event.step, event.run)
        if known not in (self._flight, self._main):
            return
        handler = _STEP_NEWS[event.step]
        handler(self, event)

    def _install_news(self, event: Event) -> None:
        if isinstance(event, StepStarted):
            return
        self._flight = None
        if isinstance(event, StepTimedOut):
            self._kill_then(lambda: self._report(State.ERRORED, "INSTALL_TIMEOUT"))
        elif isinstance(event, StepFailed):
            self._report(State.ERRORED, f"INSTALL_{event.kind}")
        elif isinstance(event, StepEnded) and event.code != 0:
            self._report(State.ERRORED, exit_code=event.code)
        else:
            self._report(State.INSTALLED)

    def _startup_news(self, event: Event) -> None:
        if isinstance(event, StepStarted):
            return
        self._flight = None
        starting = self.state is State.STARTING
        if isinstance(event, StepSkipped):
            self._begin_run()
        elif isinstance(event, StepFailed):
            self._report(State.ERRORED, f"STARTUP_{event.kind}")
        elif isinstance(event, StepTimedOut):
            if starting:
                self._report(State.ERRORED, "STARTUP_TIMEOUT")
        elif isinstance(event, StepEnded):
            self._main = None
            if event.code != 0 and self.state in (State.STARTING, State.RUNNING):
                self._report(State.ERRORED, "STARTUP_ERROR", event.code)
            elif starting:
                self._report(State.RUNNING)

    def _run_news(self, event: Event) -> None:
        self._flight = None
        if isinstance(event, StepStarted):
            if self.state is State.STARTING:
                self._report(State.RUNNING)
        elif isinstance(event, StepSkipped):
            self._report(State.FINISHED)
        elif isinstance(event, StepFailed):
            self._report(State.ERRORED, f"RUN_{event.kind}")
        elif isinstance(event, StepTimedOut):
            self._report(State.ERRORED, "RUN_TIMEOUT")
        elif isinstance(event, StepEnded):
            self._main = None
            if event.code != 0:
                self._report(State.ERRORED, "RUN_ERROR", event.code)
            else:
                self._want_stopped()
                self._advance()

    def _shutdown_news(self, event: Event) -> None:
        if isinstance(event, StepStarted):
            return
        self._flight = None
        if self.state is State.BROKEN:
            self._kill_then(self._advance)
        elif isinstance(event, StepTimedOut):
            self._kill_then(lambda: self._report(State.ERRORED, "SHUTDOWN_TIMEOUT"))
        else:
            self._finish_stopping()

    def _recover_news(self, event: Event) -> None:
        if isinstance(event, StepStarted):
            return
        self._flight = None
        self._after_error(self._before_error)

    def _uninstall_news(self, event: Event) -> None:
        if isinstance(event, StepStarted):
            return
        self._kill_then(lambda: self._enter(State.UNINSTALLED))


_STEP_NEWS: Mapping[str, Callable[[Machine, Event], None]] = {
    "install": Machine._install_news,
    "startup": Machine._startup_news,
    "run": Machine._run_news,
    "shutdown": Machine._shutdown_news,
    "recover": Machine._recover_news,
    "uninstall": Machine._uninstall_news,
}
