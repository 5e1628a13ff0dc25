"""A core device of this edge as the cloud side of Greengrass sees it, and S3 as both read it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from foreshore.errors import AwsError, PeerError, UserError
from foreshore.greengrass.cloud.artifacts import digest_of
from foreshore.greengrass.cloud.service import Order, ReadArtifact
from foreshore.greengrass.components import DeploymentStatus
from foreshore.greengrass.deployments import read_document
from foreshore.greengrass.lifecycle import State
from foreshore.greengrass.provided import GGC_VERSION
from foreshore.greengrass.recipes import Recipe, parse
from foreshore.greengrass.resolution import Available
from foreshore.greengrass.supervisor import Supervisor
from foreshore.http import Client

_STATES = ("NEW", "INSTALLED", "STARTING", "RUNNING", "STOPPING", "ERRORED", "BROKEN", "FINISHED")

MAX_DETAILS = 1000


class CloudCore:
    """`CoreHandle` over a core's supervisor. `inbox` is a folder of its own for what comes from the cloud."""

    def __init__(self, thing: str, supervisor: Supervisor, inbox: Path) -> None:
        self.thing = thing
        self._supervisor = supervisor
        self._inbox = inbox

    def facts(self) -> dict[str, str]:
        """Versions and platform, as a core's status message has them."""
        platform = self._supervisor.recipes.platform
        return {
            "coreVersion": GGC_VERSION,
            "platform": platform["os"],
            "architecture": platform["architecture"],
            "runtime": platform.get("runtime", "aws_nucleus_classic"),
        }

    def components(self) -> list[dict[str, Any]]:
        """What is installed."""
        roots = {name for group in self._supervisor.deployer.groups.values() for name in group}
        return [
            {
                "componentName": each.name,
                "componentVersion": each.version,
                "lifecycleState": each.state if each.state in _STATES else "NEW",
                "isRoot": each.name in roots,
                **self._failure(each.name),
            }
            for each in self._supervisor.statuses()
        ]

    def _failure(self, name: str) -> dict[str, Any]:
        """Why a component is ERRORED or BROKEN; empty for others."""
        runner = self._supervisor.processes.runners.get(name)
        if runner is None or runner.machine.state not in (State.ERRORED, State.BROKEN):
            return {}
        machine = runner.machine
        return {
            "lifecycleStateDetails": machine.status_reason[:MAX_DETAILS] or machine.status_code,
            "lifecycleStatusCodes": [machine.status_code],
        }

    def groups(self) -> dict[str, dict[str, str]]:
        """The root components of each deployment group."""
        return self._supervisor.deployer.groups

    def known(self) -> Available:
        """The recipes at hand."""
        return {
            name: {version: recipe.dependencies for version, recipe in versions.items()}
            for name, versions in self._supervisor.recipes.known().items()
        }

    async def deploy(self, order: Order, read: ReadArtifact, /) -> DeploymentStatus:
        """Bring recipes and artifacts in, deploy, and wait for the end.

        One that the core already has, because it died before it could tell, is waited for only.
        """
        if order.id in self._supervisor.deployer.deployments:
            return await self._supervisor.wait(order.id)
        shutil.rmtree(self._inbox, ignore_errors=True)
        recipes, artifacts = self._inbox / "recipes", self._inbox / "artifacts"
        recipes.mkdir(parents=True)
        artifacts.mkdir()
        for name, text in order.recipes.items():
            (recipes / f"{name}.json").write_text(text)
            await self._fetch(parse(text, name), artifacts, read)
        self._supervisor.artifacts.copy_in(artifacts)
        self._supervisor.recipes.take(recipes)
        document = replace(read_document(order.document, "deployment"), memberships=order.memberships)
        return await self._supervisor.wait(await self._supervisor.deploy_document(document, order.id))

    def cancel(self, identifier: str, /) -> None:
        """Give up a deployment, if it is there and not over."""
        if identifier in self._supervisor.deployer.deployments:
            self._supervisor.deployer.cancel(identifier)

    async def _fetch(self, recipe: Recipe, folder: Path, read: ReadArtifact) -> None:
        """The artifacts of the manifest for this platform, each with its digest checked."""
        target = folder / recipe.name / str(recipe.version)
        target.mkdir(parents=True)
        for artifact in self._supervisor.recipes.manifest(recipe).artifacts:
            body = await read(artifact.uri)
            if artifact.digest and digest_of(body) != artifact.digest:
                raise UserError(
                    f"the digest of {artifact.uri} is not the one of when {recipe.name} {recipe.version} was created",
                    code="artifact-digest",
                    mend="create a new component version",
                )
            (target / artifact.file_name).write_bytes(body)


class Objects:
    """GetObject of S3, asked at the AWS endpoint."""

    def __init__(self, endpoint: Callable[[], str], region: str) -> None:
        self._endpoint = endpoint
        self._region = region
        self._client = Client(limit=4)

    async def fetch(self, bucket: str, key: str) -> bytes:
        """An object's bytes. Raises AwsError."""
        parts = urlsplit(self._endpoint())
        credential = f"foreshore/20200101/{self._region}/s3/aws4_request"
        headers = [
            (b"x-amz-content-sha256", b"UNSIGNED-PAYLOAD"),
            (b"Authorization", f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders=host, Signature=0".encode()),
        ]
        target = f"/{quote(bucket)}/{quote(key)}"
        try:
            answer = await self._client.fetch("GET", str(parts.hostname), parts.port or 80, target, headers)
        except (OSError, TimeoutError, PeerError) as error:
            raise AwsError("ServiceUnavailableException", str(error), 503) from error
        if answer.status == 404:
            raise AwsError("ResourceNotFoundException", f"s3://{bucket}/{key} does not exist", 404)
        if answer.status >= 300:
            raise AwsError("AccessDeniedException", f"s3://{bucket}/{key} answered {answer.status}", 403)
        assert isinstance(answer.body, bytes)
        return answer.body

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()
