"""Shell: what components are asked before a deployment changes them: may it begin now, is their configuration good.

As the nucleus does (UpdateSystemPolicyService, LifecycleIPCEventStreamAgent, DynamicComponentConfigurationValidator):
every component that listens is asked for leave, those that defer are asked again; then the running components whose
configuration changes, but not their version, validate it, all within one time limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from foreshore.errors import UserError
from foreshore.greengrass.components import ComponentUpdates, ConfigurationValidations

INVALID = "Components reported that their to-be-deployed configuration is invalid"
Say = Callable[[str, str], None]


class Answers:
    """The answers of one round of asking for leave to update."""

    def __init__(self) -> None:
        self.waiting: set[str] = set()
        self.answered: set[str] = set()
        self.recheck_ms = 0
        self.all_in = asyncio.Event()

    def take(self, name: str, recheck_ms: int) -> None:
        """A component's answer: again after so many ms, 0 or less for go on."""
        self.recheck_ms = max(self.recheck_ms, recheck_ms)
        self.answered.add(name)
        self.waiting.discard(name)
        if not self.waiting:
            self.all_in.set()


async def ask_leave(
    updates: ComponentUpdates,
    deployment_id: str,
    cancelled: asyncio.Event,
    *,
    timeout_s: float,
    restarting: bool,
    say: Say,
) -> None:
    """Wait until nobody defers the deployment, or it is cancelled. Who does not answer in time has no objection."""
    while not cancelled.is_set():
        answers = Answers()
        asked = updates.announce_pre(deployment_id, answers.take, restarting=restarting)
        answers.waiting = set(asked) - answers.answered
        if not asked:
            return
        if answers.waiting and not await _either(answers.all_in, cancelled, timeout_s):
            say("WARN", f"no answer to the update from {', '.join(sorted(answers.waiting))} within {timeout_s:g} s")
        if answers.recheck_ms <= 0:
            return
        say("INFO", f"the deployment is deferred for {answers.recheck_ms} ms")
        await _either(cancelled, cancelled, answers.recheck_ms / 1000)


async def _either(first: asyncio.Event, second: asyncio.Event, timeout_s: float) -> bool:
    """Wait for either of two; False when the time was over."""
    waits = [asyncio.ensure_future(event.wait()) for event in (first, second)]
    try:
        done, _ = await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waits:
            each.cancel()
    return bool(done)


async def ask_validity(
    validations: ConfigurationValidations,
    deployment_id: str,
    proposed: Mapping[str, Mapping[str, object]],
    timeout_s: float,
) -> None:
    """Ask the components that validate their own configuration. Raises UserError when one refuses or is silent."""
    answers: dict[str, asyncio.Future[tuple[str, str]]] = {}
    loop = asyncio.get_running_loop()
    try:
        for name, configuration in proposed.items():
            answer: asyncio.Future[tuple[str, str]] = loop.create_future()
            if validations.ask(name, deployment_id, configuration, _answering(answer)):
                answers[name] = answer
        silent = (await asyncio.wait(answers.values(), timeout=timeout_s))[1] if answers else set()
    finally:
        for name in answers:
            validations.abandon(name, deployment_id)
    if silent:
        names = ", ".join(sorted(name for name, answer in answers.items() if answer in silent))
        what = "Error while waiting for validation report for one or more components"
        raise _refused(f"{what}: no report from {names} within {timeout_s:g} s")
    refusals = [(name, each.result()[1]) for name, each in answers.items() if each.result()[0] == "REJECTED"]
    if refusals:
        raise _refused(INVALID + "".join(f" {{ name = {name}, message = {text} }}" for name, text in refusals))


def _answering(answer: asyncio.Future[tuple[str, str]]) -> Callable[[str, str], None]:
    def report(status: str, message: str) -> None:
        if not answer.done():
            answer.set_result((status, message))

    return report


def _refused(what: str) -> UserError:
    return UserError(what, code="configuration-refused", mend="change the configuration update")
