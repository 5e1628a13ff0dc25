"""The component state machine: scripted lives, and random ones that must keep to the transition table."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshore.greengrass.lifecycle import (
    TRANSITIONS,
    Changed,
    Command,
    DependenciesReady,
    Event,
    Killed,
    KillProcesses,
    Machine,
    Reported,
    Request,
    RunStep,
    State,
    StepEnded,
    StepFailed,
    StepSkipped,
    StepStarted,
    StepTimedOut,
    bootstrap_outcome,
)
from foreshore.greengrass.recipes import Step

READY = DependenciesReady(True)


class Life:
    """A machine that is told of steps by name; remembers the states it went through and the last step begun."""

    def __init__(self, *steps: str, **timeouts: float) -> None:
        self.machine = Machine({name: Step("true", timeouts.get(name)) for name in steps})
        self.states: list[str] = []
        self.steps: list[str] = []
        self.last: RunStep | None = None
        self.kill: KillProcesses | None = None
        self.now = 0.0

    def tell(self, *events: Event) -> Life:
        for event in events:
            for command in self.machine.handle(event, self.now):
                self._note(command)
        return self

    def _note(self, command: Command) -> None:
        if isinstance(command, Changed):
            self.states.append(str(command.new))
        elif isinstance(command, RunStep):
            self.steps.append(command.step)
            self.last = command
        else:
            self.kill = command

    def start(self) -> Life:
        return self.tell(READY, Request.START)

    def step(self) -> RunStep:
        assert self.last is not None
        return self.last

    def started(self) -> Life:
        return self.tell(StepStarted(self.step().step, self.step().run))

    def ended(self, code: int = 0) -> Life:
        return self.tell(StepEnded(self.step().step, self.step().run, code))

    def skipped(self) -> Life:
        return self.tell(StepSkipped(self.step().step, self.step().run))

    def timed_out(self) -> Life:
        return self.tell(StepTimedOut(self.step().step, self.step().run))

    def killed(self) -> Life:
        assert self.kill is not None
        return self.tell(Killed(self.kill.run))

    def took(self) -> list[str]:
        states, self.states = self.states, []
        return states


def running() -> Life:
    life = Life("run").start().started()
    life.took()
    return life


def test_run_goes_to_running_when_its_process_starts() -> None:
    life = Life("install", "run").start()
    assert life.steps == ["install"]
    life.started().ended()
    assert life.took() == ["INSTALLED", "STARTING"]
    assert life.steps == ["install", "run"]
    assert not life.machine.is_settled
    life.started()
    assert life.took() == ["RUNNING"]
    assert life.machine.is_settled
    assert life.machine.is_ready


def test_startup_goes_to_running_when_it_ends_well() -> None:
    life = Life("startup", "run").start().started()
    assert life.took() == ["INSTALLED", "STARTING"]
    life.ended()
    assert life.took() == ["RUNNING"]
    assert life.steps == ["startup"]


def test_a_component_without_steps_finishes() -> None:
    life = Life().start()
    assert life.took() == ["INSTALLED", "STARTING", "FINISHED"]
    assert life.machine.is_settled


def test_run_that_ends_well_finishes_after_shutdown() -> None:
    life = Life("run", "shutdown").start().started().ended()
    assert life.steps == ["run", "shutdown"]
    assert life.step().timeout_s == 15
    life.ended(3)
    assert life.kill is not None
    life.killed()
    assert life.took()[-2:] == ["STOPPING", "FINISHED"]


def test_three_errors_of_run_end_broken() -> None:
    life = running()
    for _ in range(2):
        life.ended(1).killed().started()
        assert life.took() == ["ERRORED", "STOPPING", "INSTALLED", "STARTING", "RUNNING"]
    life.ended(9)
    assert life.took() == ["BROKEN"]
    assert life.machine.status_code == "RUN_ERROR"
    assert life.machine.status_reason.endswith("exited with code 9.")
    life.killed()
    assert life.machine.is_settled
    life.tell(Request.RESTART)
    assert life.took() == []
    life.tell(Request.REINSTALL)
    assert life.took() == ["NEW", "INSTALLED", "STARTING"]


@pytest.mark.parametrize(("step", "code"), [("install", "INSTALL_ERROR"), ("startup", "STARTUP_ERROR")])
def test_three_errors_of_install_or_startup_end_broken(step: str, code: str) -> None:
    life = Life(step).start()
    for _ in range(2):
        life.started().ended(1)
        if step == "startup":
            assert not life.machine.is_ready
            life.killed()
    life.started().ended(1).killed()
    assert life.machine.state is State.BROKEN
    assert life.machine.status_code == code


def test_errors_an_hour_apart_do_not_add_up() -> None:
    life = running()
    for _ in range(5):
        life.now += 3600
        life.ended(1).killed().started()
    assert life.machine.state is State.RUNNING


def test_a_good_report_forgets_the_errors_of_that_state() -> None:
    life = Life("startup").start()
    for _ in range(2):
        life.ended(1).killed()
    life.ended()
    assert life.machine.state is State.RUNNING
    life.tell(Reported(State.ERRORED)).killed()
    life.ended(1).killed().ended(1).killed()
    assert life.machine.state is State.STARTING


@pytest.mark.parametrize(
    ("step", "code"),
    [("install", "INSTALL_TIMEOUT"), ("startup", "STARTUP_TIMEOUT"), ("run", "RUN_TIMEOUT")],
)
def test_timeouts_are_errors(step: str, code: str) -> None:
    life = Life(step, **{step: 7.0}).start().started()
    assert life.step().timeout_s == 7
    codes = [
        command.code
        for event in (StepTimedOut(step, life.step().run), Killed(life.step().run + 1))
        for command in life.machine.handle(event, 0)
        if isinstance(command, Changed) and command.new is State.ERRORED
    ]
    assert codes == [code]


def test_default_timeouts() -> None:
    assert Life("install").start().step().timeout_s == 120
    assert Life("startup").start().step().timeout_s == 120
    assert Life("run").start().step().timeout_s is None


def test_shutdown_that_hangs_is_an_error_and_still_stops() -> None:
    life = Life("run", "shutdown").start().started().tell(Request.STOP)
    life.timed_out().killed()
    assert life.took()[-3:] == ["STOPPING", "ERRORED", "FINISHED"]


def test_recover_runs_before_the_next_try() -> None:
    life = Life("run", "recover").start().started().ended(1)
    assert life.steps == ["run", "recover"]
    assert life.step().timeout_s == 60
    life.ended(1).killed()
    assert life.took()[-3:] == ["STOPPING", "INSTALLED", "STARTING"]


def test_skipif_of_each_step() -> None:
    life = Life("install", "startup", "run").start().skipped().skipped()
    assert life.steps == ["install", "startup", "run"]
    life.skipped()
    assert life.took() == ["INSTALLED", "STARTING", "FINISHED"]


def test_hard_dependencies_hold_back_and_restart() -> None:
    life = Life("run").tell(Request.START)
    assert life.took() == ["INSTALLED"]
    life.tell(READY)
    assert life.took() == ["STARTING"]
    life.started().tell(DependenciesReady(False))
    assert life.took() == ["RUNNING", "STOPPING"]
    life.killed()
    assert life.took() == ["INSTALLED"]
    life.tell(READY).started()
    assert life.took() == ["STARTING", "RUNNING"]


def test_a_component_may_report_its_own_state() -> None:
    life = Life("startup").start().started()
    assert life.machine.may_report(State.RUNNING)
    life.tell(Reported(State.RUNNING))
    assert life.machine.state is State.RUNNING
    assert not life.machine.may_report(State.RUNNING)
    life.tell(Reported(State.ERRORED))
    assert life.machine.state is State.STOPPING


def test_stop_restart_and_reinstall() -> None:
    life = running().tell(Request.STOP).killed()
    assert life.took() == ["STOPPING", "FINISHED"]
    life.tell(Request.RESTART).started()
    assert life.took() == ["INSTALLED", "STARTING", "RUNNING"]
    life.tell(Request.REINSTALL).killed().started()
    assert life.took() == ["STOPPING", "NEW", "INSTALLED", "STARTING", "RUNNING"]


def test_a_restart_of_what_was_never_started_is_ignored() -> None:
    assert Life("run").tell(Request.RESTART).took() == []


def test_uninstall_runs_its_step() -> None:
    life = Life("run", "uninstall").start().started().tell(Request.UNINSTALL).killed()
    assert life.steps == ["run", "uninstall"]
    life.ended(1).killed()
    assert life.took()[-3:] == ["FINISHED", "UNINSTALLING", "UNINSTALLED"]
    assert life.machine.is_closed


def test_a_report_while_stopping_changes_nothing() -> None:
    life = running().tell(Request.RESTART, Reported(State.ERRORED)).killed()
    assert life.took() == ["STOPPING", "INSTALLED", "STARTING"]


@pytest.mark.parametrize("end", [Request.CLOSE, Request.UNINSTALL])
@pytest.mark.parametrize("late", [Request.START, Request.STOP, Request.RESTART, Request.REINSTALL])
def test_nothing_revives_a_component_on_its_way_out(end: Request, late: Request) -> None:
    life = running().tell(end, late, DependenciesReady(False)).killed()
    assert life.machine.is_closed


def test_close_from_everywhere() -> None:
    for life in (
        Life("install").start().started(),
        Life("run").tell(Request.START),
        Life("startup").start().started(),
        running(),
        Life("install", "recover").start().ended(1),
        Life(),
    ):
        life.tell(Request.CLOSE)
        if not life.machine.is_closed:
            life.killed()
        assert life.machine.is_closed


def test_old_news_is_ignored() -> None:
    life = running()
    old = life.step()
    life.tell(Request.RESTART).killed()
    life.tell(StepEnded(old.step, old.run, 1), Killed(99))
    assert life.machine.state is State.STARTING


@pytest.mark.parametrize(
    ("code", "outcome"), [(0, "done"), (100, "restart"), (101, "reboot"), (1, "failed"), (-9, "failed")]
)
def test_bootstrap_exit_codes(code: int, outcome: str) -> None:
    assert bootstrap_outcome(code) == outcome


STEPS = st.sets(st.sampled_from(["install", "startup", "run", "shutdown", "recover", "uninstall"]))
MOVES = st.lists(
    st.sampled_from(["ok", "fail", "skip", "timeout", "io", "killed", "ready", "unready", "errored", "up", *Request]),
    max_size=60,
)


def _event(move: object, life: Life) -> Sequence[Event]:
    if isinstance(move, Request):
        return [move]
    fixed: dict[object, Event] = {
        "ready": READY,
        "unready": DependenciesReady(False),
        "errored": Reported(State.ERRORED),
        "up": Reported(State.RUNNING),
    }
    if move in fixed:
        return [fixed[move]]
    if move == "killed":
        return [Killed(life.kill.run)] if life.kill else []
    if life.last is None:
        return []
    step, run = life.last.step, life.last.run
    started = StepStarted(step, run)
    ends: dict[object, Event] = {
        "ok": StepEnded(step, run, 0),
        "fail": StepEnded(step, run, 1),
        "skip": StepSkipped(step, run),
        "timeout": StepTimedOut(step, run),
        "io": StepFailed(step, run, "IO_ERROR"),
    }
    return [ends[move]] if move in ("skip", "io") else [started, ends[move]]


@settings(max_examples=1000, derandomize=True, deadline=None)
@given(STEPS, MOVES)
def test_random_lives_keep_to_the_table(steps: set[str], moves: list[object]) -> None:
    life = Life(*steps)
    state = State.NEW
    for move in moves:
        life.now += 1
        for event in _event(move, life):
            commands = life.machine.handle(event, life.now)
            for command in commands:
                if isinstance(command, Changed):
                    assert command.old is state
                    assert command.new in TRANSITIONS[state], (state, command.new)
                    state = command.new
                life._note(command)
            assert life.machine.state is state


@settings(max_examples=200, derandomize=True, deadline=None)
@given(STEPS, MOVES)
def test_every_life_can_be_closed(steps: set[str], moves: list[object]) -> None:
    life = Life(*steps)
    for move in moves:
        for event in _event(move, life):
            life.tell(event)
    life.tell(Request.CLOSE)
    for _ in range(6):
        if life.machine.is_closed:
            break
        for event in (*_event("ok", life), *_event("killed", life)):
            life.tell(event)
    assert life.machine.is_closed, life.machine.state
