"""A deployment that takes longer than its job allows: TIMED_OUT, given up on the core, and the next one goes on."""

import asyncio
import json
from types import SimpleNamespace

from foreshore.greengrass.cloud import service
from foreshore.greengrass.cloud.service import GreengrassCloud
from foreshore.greengrass.components import DeploymentStatus

TARGET = "arn:aws:iot:us-east-1:000000000000:thing/slow"


class Core:
    """A core whose first deployment ends only when it is given up."""

    thing = "slow"

    def __init__(self):
        self.begun, self.given_up = asyncio.Event(), asyncio.Event()

    def facts(self):
        return {"coreVersion": "2.0.0", "platform": "linux", "architecture": "amd64", "runtime": "aws_nucleus_classic"}

    def components(self):
        return []

    def groups(self):
        return {}

    def known(self):
        return {}

    async def deploy(self, order, read):
        if json.loads(order.document)["deploymentName"] == "quick":
            return DeploymentStatus(order.id, "SUCCEEDED", 0, "SUCCESSFUL")
        self.begun.set()
        await self.given_up.wait()
        return DeploymentStatus(order.id, "CANCELED", 0, "CANCELED")

    def cancel(self, identifier):
        self.given_up.set()


def test_a_deployment_that_takes_too_long(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(service, "time", SimpleNamespace(time=lambda: now[0]))
    monkeypatch.setattr(service, "LOOK_S", 0.01)

    async def until(cloud, identifier, status):
        while True:
            found = {each["deploymentId"]: each for each in cloud.store.all("execution")}
            if found.get(identifier, {}).get("coreDeviceExecutionStatus") == status:
                return
            await asyncio.sleep(0.005)

    async def run():
        cloud = GreengrassCloud(
            state=tmp_path, region="us-east-1", account="000000000000", things_of=lambda kind, name: [name],
            groups_of=lambda thing: [], jobs=None, fetch=None, lambda_code=None, endpoint=lambda: "",
            say=lambda level, text: None,
        )  # fmt: skip
        core = Core()
        cloud.register(core)
        limit = {"timeoutConfig": {"inProgressTimeoutInMinutes": 5}}
        create = cloud.deployments.create
        slow = create({"targetArn": TARGET, "deploymentName": "slow", "iotJobConfiguration": limit}, None)
        await core.begun.wait()
        now[0] += 299
        assert cloud.deployments.review() == [] and not core.given_up.is_set()
        now[0] += 1
        await until(cloud, slow["deploymentId"], "TIMED_OUT")
        await core.given_up.wait()
        assert cloud.deployments.find(slow["deploymentId"])["deploymentStatus"] == "FAILED"
        quick = create({"targetArn": TARGET, "deploymentName": "quick"}, None)
        await until(cloud, quick["deploymentId"], "COMPLETED")
        await cloud.stop()

    asyncio.run(asyncio.wait_for(run(), 60))
