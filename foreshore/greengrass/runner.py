"""Shell: one component's processes. Feeds the lifecycle machine with what happens and does what it commands.

Every step is `sh -c <script>` in the component's work folder, leader of a process group of its own. Its output goes
line by line to the component's log. Skipif is answered here, because it looks at files and the PATH.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path

from foreshore.children import Child, spawn
from foreshore.errors import UserError
from foreshore.greengrass.component_log import ComponentLog
from foreshore.greengrass.lifecycle import (
    Changed,
    Event,
    Killed,
    KillProcesses,
    Machine,
    Request,
    RunStep,
    State,
    StepEnded,
    StepFailed,
    StepSkipped,
    StepStarted,
    StepTimedOut,
    timeout_of,
)
from foreshore.greengrass.log_lines import command_text
from foreshore.greengrass.recipes import Step
from foreshore.greengrass.run_as import Identity, is_root

GRACE_S = 5.0


class Runner:
    """One component at one version. `post` takes events; `on_change` hears every change of state."""

    def __init__(
        self,
        name: str,
        steps: Mapping[str, Step],
        *,
        version: str,
        shell: Callable[[], str],
        run_as: Callable[[], Identity | None],
        root: Path,
        cwd: Path,
        environment: Callable[[Step], dict[str, str]],
        log: ComponentLog,
        run_folder: Path,
        on_change: Callable[[str, Changed], None],
        error_reset_s: float = 3600.0,
    ) -> None:
        self.name = name
        self.version = version
        self.machine = Machine(steps, error_reset_s=error_reset_s)
        self.log = log
        self.children: list[Child] = []
        self.paused = False
        self._shell = shell
        self._run_as = run_as
        self._root = root
        self._cwd = cwd
        self._environment = environment
        self._run_folder = run_folder
        self._on_change = on_change
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: dict[tuple[str, int], asyncio.TimerHandle] = {}
        self._events: deque[Event] = deque()
        self._handling = False

    # events in, commands out

    def post(self, event: Event) -> None:
        """Give the machine an event and start what it commands. Events posted meanwhile wait their turn."""
        self._events.append(event)
        if self._handling:
            return
        self._handling = True
        try:
            while self._events:
                for command in self.machine.handle(self._events.popleft(), time.monotonic()):
                    self._do(command)
        finally:
            self._handling = False

    def _do(self, command: object) -> None:
        if isinstance(command, Changed):
            self._note_change(command)
        elif isinstance(command, RunStep):
            self._spawn_task(self._run_step(command))
        elif isinstance(command, KillProcesses):
            self._cancel_timers()
            self._spawn_task(self._kill(command))

    def _spawn_task(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.log.write("ERROR", "service-errored", repr(task.exception()), self._contexts())

    def _note_change(self, change: Changed) -> None:
        contexts = {**self._contexts(), "currentState": change.old, "newState": change.new}
        level = "ERROR" if change.new in (State.ERRORED, State.BROKEN) else "INFO"
        shown = f"{change.old} -> {change.new}" + (f": {change.reason}" if change.reason else "")
        thread = f"{self.name}-lifecycle"
        self.log.write(
            level, "service-set-state", change.reason.removesuffix("."), contexts, thread=thread, shown=shown
        )
        self._on_change(self.name, change)

    def _contexts(self, step: Step | None = None) -> dict[str, object]:
        contexts: dict[str, object] = {}
        if step is not None:
            contexts["scriptName"] = f"services.{self.name}.lifecycle.{step.label}"
        return {**contexts, "serviceName": self.name, "currentState": str(self.machine.state)}

    # steps

    async def _run_step(self, command: RunStep) -> None:
        name, run = command.step, command.run
        step = self.machine.steps[name]
        environment = self._environment(step)
        skip = self._skips(step, environment)
        if skip is None:
            self.log.write("ERROR", "generic-service-invalid-config", f"Skipif {step.skip_if!r}", self._contexts(step))
            self.post(StepFailed(name, run, "CONFIG_NOT_VALID"))
            return
        if skip or not step.script.strip():
            self.post(StepSkipped(name, run))
            return
        async with self._lock:
            try:
                await self._start(name, run, step, environment)
            except (OSError, ValueError, UserError, subprocess.SubprocessError) as error:
                self.log.write("ERROR", "shell-runner-error", str(error), self._contexts(step))
                self.post(StepFailed(name, run, "IO_ERROR"))
                return
        if command.timeout_s is not None:
            self._timers[name, run] = asyncio.get_running_loop().call_later(
                command.timeout_s, self._timed_out, name, run
            )
        self.post(StepStarted(name, run))

    async def _start(self, name: str, run: int, step: Step, environment: dict[str, str]) -> None:
        contexts = self._contexts(step)
        started_with = {**contexts, "command": command_text(step.script.strip())}
        shown = f"shell-runner-start. {step.script.strip()}"
        self.log.write("INFO", "shell-runner-start", "", started_with, thread=f"{self.name}-lifecycle", shown=shown)
        if step.requires_privilege and not is_root():
            self.log.write(
                "WARN", "no-privilege", f"{step.label} requires privilege; it runs as the present user", contexts
            )
        started = False
        ended: list[int] = []

        def on_exit(code: int) -> None:
            if started:
                self._ended(name, run, step, code)
            else:
                ended.append(code)

        child = await self._spawn(step, environment, on_exit, leaves_daemons=name in ("startup", "run"))
        self.children.append(child)
        started = True
        if ended:
            asyncio.get_running_loop().call_soon(self._ended, name, run, step, ended[0])

    async def _spawn(
        self, step: Step, environment: dict[str, str], on_exit: Callable[[int], None], *, leaves_daemons: bool = False
    ) -> Child:
        def on_line(stream: str, text: str) -> None:
            self.log.write("INFO" if stream == "stdout" else "WARN", stream, text.rstrip(), self._contexts(step))

        self._cwd.mkdir(parents=True, exist_ok=True)
        identity = None if step.requires_privilege else self._run_as()
        return await spawn(
            [self._shell(), "-c", step.script],
            env=environment if identity is None else {**environment, **identity.environment()},
            cwd=self._cwd,
            user=None if identity is None else (identity.uid, identity.gid, identity.groups),
            on_line=on_line,
            on_exit=on_exit,
            run_folder=self._run_folder,
            leaves_daemons=leaves_daemons,
        )

    def _ended(self, name: str, run: int, step: Step, code: int) -> None:
        self.children = [child for child in self.children if child.group_lives]
        timer = self._timers.pop((name, run), None)
        if timer is not None:
            timer.cancel()
        # As the nucleus's process tells it: 128 and the signal's number when one ended it.
        contexts = {"exitCode": code if code >= 0 else 128 - code, **self._contexts()}
        message = f"{name.capitalize()} script exited"
        shown = (
            f"{name.capitalize()} script was ended by {_signal_name(code)}" if code < 0 else f"{message}: code {code}"
        )
        self.log.write("INFO", "", message, contexts, thread=f"{self.name}-lifecycle", shown=shown)
        self.post(StepEnded(name, run, code))

    def _timed_out(self, name: str, run: int) -> None:
        self._timers.pop((name, run), None)
        self.post(StepTimedOut(name, run))

    def _cancel_timers(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _skips(self, step: Step, environment: Mapping[str, str]) -> bool | None:
        """Whether Skipif holds; None when it is not `[!]onpath X` or `[!]exists F`."""
        if not step.skip_if:
            return False
        text = step.skip_if.strip()
        negated = text.startswith("!")
        words = text.removeprefix("!").strip().split(None, 1)
        if len(words) != 2 or words[0] not in ("onpath", "exists"):
            return None
        if words[0] == "onpath":
            found = shutil.which(words[1], path=environment.get("PATH")) is not None
        else:
            found = Path(words[1].replace("~root", str(self._root), 1)).expanduser().exists()
        return found is not negated

    async def _kill(self, command: KillProcesses) -> None:
        async with self._lock:
            await self._stop_children()
        self.post(Killed(command.run))

    async def _stop_children(self) -> None:
        if self.paused:
            self._signal(signal.SIGCONT)
            self.paused = False
        children, self.children = self.children, []
        await asyncio.gather(*(_stop(child) for child in children))

    # what the core asks

    async def bootstrap(self) -> int:
        """Run the bootstrap step to its end; give its exit code, 0 when there is none. Raises UserError on timeout."""
        step = self.machine.steps.get("bootstrap")
        if step is None:
            return 0
        environment = self._environment(step)
        skip = self._skips(step, environment)
        if skip is None:
            return 1
        if skip:
            return 0
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        child = await self._spawn(step, environment, done.set_result)
        timeout = timeout_of("bootstrap", step)
        try:
            return await asyncio.wait_for(asyncio.shield(done), timeout)
        except TimeoutError:
            raise UserError(
                f"the bootstrap step of {self.name} did not finish within {timeout:g} s",
                code="bootstrap-timeout",
                mend="raise its Timeout, or make it quicker",
            ) from None
        finally:
            await child.stop(GRACE_S)

    def pause(self) -> None:
        """Freeze all processes (SIGSTOP to their groups)."""
        self._signal(signal.SIGSTOP)
        self.paused = True

    def resume(self) -> None:
        """Thaw them."""
        self._signal(signal.SIGCONT)
        self.paused = False

    def _signal(self, number: int) -> None:
        for child in self.children:
            child.signal(number)

    def replace_steps(self, steps: Mapping[str, Step], version: str) -> None:
        """Take another definition; the next start uses it."""
        self.machine.steps = dict(steps)
        self.version = version

    async def close(self, request: Request = Request.CLOSE) -> None:
        """Shut down in order (Shutdown step, then signals), or UNINSTALL, and wait for the end."""
        changed = asyncio.Event()
        previous = self._on_change

        def on_change(name: str, change: Changed) -> None:
            previous(name, change)
            changed.set()

        self._on_change = on_change
        self.post(request)
        while not self.machine.is_closed:
            changed.clear()
            waiting = [task for task in self._tasks if task is not asyncio.current_task()]
            waiter = asyncio.ensure_future(changed.wait())
            await asyncio.wait([waiter, *waiting], return_when=asyncio.FIRST_COMPLETED)
            waiter.cancel()
        self._cancel_timers()
        await self._stop_children()
        while self._tasks:
            await asyncio.wait(list(self._tasks))
        self._on_change = previous
        self.log.close()


async def _stop(child: Child) -> None:
    """End a child, or the daemons that a Startup step left; they too are asked before they are killed."""
    if child.returncode is not None:
        child.signal(signal.SIGTERM)
        deadline = time.monotonic() + GRACE_S
        while child.group_lives and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
    await child.stop(GRACE_S)


def _signal_name(code: int) -> str:
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
