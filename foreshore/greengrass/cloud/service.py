"""Shell: the greengrassv2 API on the AWS endpoint, and the delivery of its deployments to connected cores.

A connected core is a `CoreHandle`. Once a second, and when a deployment changes, each is looked at: what it says of
itself is kept, and what waits for it is carried out, one deployment after the other.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from foreshore.background import Background
from foreshore.errors import ForeshoreError, UserError
from foreshore.greengrass.cloud.artifacts import Artifacts, FetchObject
from foreshore.greengrass.cloud.components import Components
from foreshore.greengrass.cloud.connectivity import Directory
from foreshore.greengrass.cloud.control import control_plane
from foreshore.greengrass.cloud.cores import Cores
from foreshore.greengrass.cloud.deployments import Deployments, ThingsOf, document_text
from foreshore.greengrass.cloud.jobs import Jobs
from foreshore.greengrass.cloud.lambda_source import LambdaCodeOf
from foreshore.greengrass.cloud.store import Ground, Say, Store
from foreshore.greengrass.components import DeploymentStatus
from foreshore.greengrass.deployment_errors import failure_of
from foreshore.greengrass.deployments import GROUP_PREFIX, read_document
from foreshore.greengrass.recipes import parse
from foreshore.greengrass.resolution import Available
from foreshore.http import Request, Response

LOOK_S = 1.0
GroupsOf = Callable[[str], list[str]]
"""`(thing) -> thing groups`, those above them too."""
ReadArtifact = Callable[[str], Awaitable[bytes]]
"""`(URI) -> bytes`. Raises AwsError."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a core is to do: a deployment's id and document (JSON), the core's thing groups (`thinggroup/<name>`), and
    the recipes (JSON) by component that the core may not have. The same id twice is one deployment."""

    id: str
    document: str
    memberships: tuple[str, ...]
    recipes: dict[str, str]


class CoreHandle(Protocol):
    """A connected core, as the cloud side sees it."""

    thing: str

    def facts(self) -> dict[str, str]:
        """`coreVersion`, `platform`, `architecture` and `runtime`."""
        ...

    def components(self) -> list[dict[str, Any]]:
        """`componentName`, `componentVersion`, `lifecycleState`, `isRoot` of each, and why one has failed."""
        ...

    def groups(self) -> Mapping[str, Mapping[str, str]]:
        """The root components of each deployment group, {group: {name: version}}."""
        ...

    def known(self) -> Available:
        """The recipes at hand."""
        ...

    async def deploy(self, order: Order, read: ReadArtifact, /) -> DeploymentStatus:
        """Carry an order out to its end; one that did not end is IN_PROGRESS. Raises UserError or AwsError."""
        ...

    def cancel(self, identifier: str, /) -> None:
        """Give up an order, if it is there and not over."""
        ...


class GreengrassCloud:
    """The service and its delivery."""

    def __init__(
        self,
        *,
        state: Path,
        region: str,
        account: str,
        things_of: ThingsOf,
        groups_of: GroupsOf,
        jobs: Jobs,
        fetch: FetchObject,
        lambda_code: LambdaCodeOf | None,
        endpoint: Callable[[], str],
        say: Say,
    ) -> None:
        self.store = Store(state / "greengrass.db")
        ground = Ground(self.store, region, account, time.time, lambda: str(uuid.uuid4()))
        self.artifacts = Artifacts(state / "greengrass-artifacts", fetch, endpoint)
        self.components = Components(ground, self.artifacts, lambda_code, say)
        self.deployments = Deployments(ground, self.components, things_of, jobs, self._wake)
        self.cores = Cores(ground, things_of)
        self.directory = Directory(self.cores)
        self._service = control_plane(self.components, self.deployments, self.cores)
        self._groups_of = groups_of
        self._say = say
        self._handles: dict[str, tuple[CoreHandle, asyncio.Event, asyncio.Task[None]]] = {}
        self._reviews = Background()

    async def handle(self, request: Request) -> Response:
        """Answer one request."""
        for handle, _, _ in self._handles.values():
            self._look(handle)
        return await self._service.handle(request)

    def give_artifact(self, name: str) -> Response:
        """What `preSignedUrl` of an artifact kept here names. Raises AwsError ResourceNotFoundException."""
        return Response(200, [(b"Content-Type", b"application/octet-stream")], self.artifacts.own(name))

    def register(self, core: CoreHandle) -> None:
        """A core has connected: deliver to it from now on."""
        event = asyncio.Event()
        self._look(core, is_report=True)
        self._reviews.start(self._review_always)
        self._handles[core.thing] = (core, event, asyncio.ensure_future(self._serve(core, event)))

    async def unregister(self, thing: str) -> None:
        """A core goes: what it has in progress is delivered again when it is back."""
        found = self._handles.pop(thing, None)
        if found is not None:
            found[2].cancel()
            await asyncio.gather(found[2], return_exceptions=True)

    async def stop(self) -> None:
        """Stop delivering and close the store."""
        for thing in list(self._handles):
            await self.unregister(thing)
        await self._reviews.stop()
        self.store.database.close()

    def _wake(self) -> None:
        for _, event, _ in self._handles.values():
            event.set()

    def _look(self, core: CoreHandle, *, is_report: bool = False) -> None:
        self.cores.seen(core.thing, core.facts(), core.components(), is_report=is_report)

    async def _serve(self, core: CoreHandle, event: asyncio.Event) -> None:
        while True:
            try:
                self._look(core)
                for execution in self.deployments.waiting(core.thing):
                    if not self.deployments.is_over(execution):
                        await self._carry_out(core, execution)
            except Exception as error:
                # A full disk must not end the delivery of what comes later.
                self._say("ERROR", f"delivery to {core.thing}: {type(error).__name__}: {error}")
            try:
                await asyncio.wait_for(event.wait(), LOOK_S)
            except TimeoutError:
                continue
            event.clear()

    async def _review_always(self) -> None:
        """Once a second: deployments that cores join, leave, or take too long for."""
        while True:
            try:
                for execution in self.deployments.review():
                    if execution["thing"] in self._handles:
                        self._handles[execution["thing"]][0].cancel(execution["deploymentId"])
            except Exception as error:
                # A full disk must not end the reviews.
                self._say("ERROR", f"review of deployments: {type(error).__name__}: {error}")
            await asyncio.sleep(LOOK_S)

    async def _carry_out(self, core: CoreHandle, execution: dict[str, Any]) -> None:
        identifier = execution["deploymentId"]
        item = self.deployments.find(identifier)
        self.deployments.begin(execution)
        try:
            order = self._order(core, item)
            status = await core.deploy(order, self.artifacts.read)
        except ForeshoreError as error:
            cause = error.what if isinstance(error, UserError) else str(error)
            status = DeploymentStatus(identifier, "FAILED", 0, "FAILED_NO_STATE_CHANGE", *failure_of(error), cause)
        if status.status in ("QUEUED", "IN_PROGRESS") or self.deployments.is_over(execution):
            return
        reason = f"{status.detailed}: {status.failure_cause}" if status.failure_cause else status.detailed
        self._look(core, is_report=True)
        if status.status == "SUCCEEDED":
            self.cores.installed_by(core.thing, identifier, _brought(item, order.recipes))
            self.deployments.succeed(execution, reason)
            return
        details = _details(status.error_stack, status.error_types)
        self.deployments.set_execution(execution, status.status, reason, details)

    def _order(self, core: CoreHandle, item: dict[str, Any]) -> Order:
        """What a deployment asks of a core, beside what its other deployments ask. Raises UserError."""
        text = document_text(item)
        memberships = tuple(f"{GROUP_PREFIX}{name}" for name in self._groups_of(core.thing))
        document = replace(read_document(text, "deployment"), memberships=memberships)
        groups = {group: roots for group, roots in core.groups().items() if document.keeps(group)}
        found = self.components.recipes({**groups, document.group: document.components}, core.known())
        recipes = {name: each["recipe"] for name, each in found.items()}
        return Order(item["deploymentId"], text, memberships, recipes)


def _brought(item: Mapping[str, Any], recipes: Mapping[str, str]) -> set[str]:
    """A deployment's components, and what those depend on."""
    found: set[str] = set()
    fresh = set(item["components"])
    while fresh:
        found |= fresh
        asked = {other for name in fresh if name in recipes for other in parse(recipes[name], name).dependencies}
        fresh = asked - found
    return found


def _details(stack: Sequence[str], types: Sequence[str]) -> dict[str, Any]:
    return {"errorStack": list(stack), "errorTypes": list(types)}
