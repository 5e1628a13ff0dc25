"""Deployments against every order of joining, leaving, deploying, ending, canceling, and restarts of the service."""

import itertools
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from foreshore.errors import AwsError
from foreshore.greengrass.cloud.deployments import OVER, Deployments, status_of
from foreshore.greengrass.cloud.store import Ground, Store

THINGS, GROUPS = ("t1", "t2"), ("g1",)
PREFIX = "arn:aws:iot:us-east-1:000000000000:"
TARGETS = [f"{PREFIX}thinggroup/g1", f"{PREFIX}thing/t1"]
thing, group, target = st.sampled_from(THINGS), st.sampled_from(GROUPS), st.sampled_from(TARGETS)


class Jobs:
    """IoT jobs, of which only the cancelling matters."""

    def __init__(self):
        self.open_jobs = set()

    def open(self, params):
        self.open_jobs.add(params["jobId"])

    def report(self, job, thing, status, details):
        assert status in ("IN_PROGRESS", *OVER)

    def is_canceled(self, job):
        return job not in self.open_jobs

    def cancel(self, job):
        self.open_jobs.discard(job)


class States(RuleBasedStateMachine):
    @initialize()
    def begin(self):
        self.folder = tempfile.TemporaryDirectory()
        self.members = {name: set() for name in GROUPS}
        self.now, self.ids = 1000.0, itertools.count(1)
        self.jobs = Jobs()
        self.open_service()

    def open_service(self):
        self.store = Store(Path(self.folder.name) / "greengrass.db")
        ground = Ground(self.store, "us-east-1", "000000000000", self.clock, lambda: f"id-{next(self.ids):06}")
        self.deployments = Deployments(ground, None, self.things_of, self.jobs, lambda: None)

    def clock(self):
        self.now += 1.0
        return self.now

    def things_of(self, kind, name):
        return sorted(self.members[name]) if kind == "thinggroup" else [name]

    @rule(name=group, member=thing)
    def join(self, name, member):
        self.members[name].add(member)

    @rule(name=group, member=thing)
    def leave(self, name, member):
        self.members[name].discard(member)

    @rule(arn=target)
    def deploy(self, arn):
        made = self.deployments.create({"targetArn": arn}, None)["deploymentId"]
        assert self.deployments.find(made)["isLatestForTarget"]

    @rule(member=thing, ends=st.sampled_from(["SUCCEEDED", "SUCCEEDED", "FAILED", "no"]))
    def carry_out(self, member, ends):
        for execution in self.deployments.waiting(member):
            self.deployments.begin(execution)
            if ends == "SUCCEEDED":
                self.deployments.succeed(execution, "SUCCESSFUL")
            elif ends == "FAILED":
                self.deployments.set_execution(execution, "FAILED", "FAILED_NO_STATE_CHANGE: it did")

    @rule(number=st.integers(0, 9))
    def cancel(self, number):
        found = self.store.all("deployment")
        if found:
            item = found[number % len(found)]
            if item["deploymentStatus"] == "ACTIVE":
                self.deployments.cancel(item, None)
            else:
                with pytest.raises(AwsError, match="can't be canceled"):
                    self.deployments.cancel(item, None)

    @rule(number=st.integers(0, 9))
    def delete(self, number):
        over = [each for each in self.store.all("deployment") if each["deploymentStatus"] != "ACTIVE"]
        if over:
            self.deployments.delete(over[number % len(over)], None)

    @rule()
    def restart(self):
        self.store.database.close()
        self.open_service()

    @invariant()
    def all_fits(self):
        self.deployments.review()
        deployments = {each["deploymentId"]: each for each in self.store.all("deployment")}
        latest = [each["targetArn"] for each in deployments.values() if each["isLatestForTarget"]]
        assert len(latest) == len(set(latest))
        for identifier, item in deployments.items():
            executions = {each["thing"]: each for each in self.deployments.executions_of(identifier)}
            status = item["deploymentStatus"]
            untold = {
                name
                for name, each in executions.items()
                if "begun" not in each and each["coreDeviceExecutionStatus"] not in OVER
            }
            kind, _, name = item["targetArn"].rpartition(":")[2].partition("/")
            things = set(self.things_of(kind, name))
            if status == "CANCELED":
                assert not untold
            elif item["isLatestForTarget"]:
                assert things <= executions.keys() and untold <= things
            if status != "CANCELED" and item["isLatestForTarget"]:
                assert status == status_of(each["coreDeviceExecutionStatus"] for each in executions.values())
            else:
                assert item.get("iotJobId") not in self.jobs.open_jobs
        told = {
            (each["deploymentId"], each["thing"])
            for each in self.store.all("execution")
            if "begun" in each and each["coreDeviceExecutionStatus"] not in OVER
        }
        waiting = {(each["deploymentId"], name) for name in THINGS for each in self.deployments.waiting(name)}
        assert told <= waiting
        assert all(identifier in deployments for identifier, _ in waiting)
        for name in THINGS:
            assert not [each for each in self.deployments.waiting(name) if each["coreDeviceExecutionStatus"] in OVER]

    def teardown(self):
        if hasattr(self, "store"):
            self.store.database.close()
            self.folder.cleanup()


TestStates = States.TestCase
TestStates.settings = settings(max_examples=40, stateful_step_count=50, deadline=None, derandomize=True)
