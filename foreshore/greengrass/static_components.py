"""Components without processes: names with tokens, states that UpdateState sets. For a core that hosts none itself."""

from __future__ import annotations

from foreshore.errors import NotEmulated, UserError
from foreshore.greengrass.components import (
    ComponentNotFound,
    ComponentStatus,
    CoreContext,
    DeploymentNotFound,
    DeploymentStatus,
    LocalDeploymentRequest,
)


class StaticComponents:
    """`Components` whose processes somebody else runs. Every component with a configuration is there, RUNNING."""

    def __init__(self, context: CoreContext) -> None:
        self._context = context
        self._states: dict[str, str] = {}

    async def start(self) -> None:
        """Nothing to start."""

    async def stop(self) -> None:
        """Nothing to stop."""

    def statuses(self) -> list[ComponentStatus]:
        """Every configured component, in version 0.0.0."""
        return [self.details(name) for name in self._context.configuration.components()]

    def details(self, name: str) -> ComponentStatus:
        """One component."""
        self._check(name)
        document = self._context.configuration.document(name)
        return ComponentStatus(name, "0.0.0", self._states.get(name, "RUNNING"), document)

    def report_state(self, name: str, state: str) -> None:
        """Keep what the component said."""
        self._check(name)
        self._states[name] = state

    async def restart_component(self, name: str) -> str | None:
        """Refused: there is no process here."""
        self._check(name)
        return "its process is not run by this core"

    async def stop_component(self, name: str) -> str | None:
        """Refused: there is no process here."""
        self._check(name)
        return "its process is not run by this core"

    async def pause_component(self, name: str) -> None:
        """Refused: there is no process here."""
        self._check(name)
        raise UserError("its process is not run by this core", code="component-static")

    async def resume_component(self, name: str) -> None:
        """Refused: there is no process here."""
        await self.pause_component(name)

    async def create_local_deployment(self, request: LocalDeploymentRequest) -> str:
        """Refused: there is nothing to deploy to."""
        raise NotEmulated("deployments on a core without component lifecycle")

    def deployment_status(self, deployment_id: str) -> DeploymentStatus:
        """None are known."""
        raise DeploymentNotFound(deployment_id)

    def deployments(self) -> list[DeploymentStatus]:
        """None."""
        return []

    async def cancel_deployment(self, deployment_id: str) -> str:
        """None are known."""
        raise DeploymentNotFound(deployment_id)

    def _check(self, name: str) -> None:
        if name not in self._context.configuration:
            raise ComponentNotFound(name)
