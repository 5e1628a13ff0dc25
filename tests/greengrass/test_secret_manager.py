"""The secret manager: labels, versions, refresh, what is on disk, and reading it without the cloud."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from foreshore.errors import AwsError
from foreshore.greengrass.secret_manager import SecretManager, Settings, read_settings
from foreshore.greengrass.secret_store import SecretStore

ARN = "arn:aws:secretsmanager:us-east-1:000000000000:secret:pump/key-AbCdEf"
LISTED = {"cloudSecrets": [{"arn": ARN, "labels": ["AWSPREVIOUS"]}]}


class Cloud:
    """Secrets Manager with one secret; `online` False makes it unreachable."""

    def __init__(self) -> None:
        self.versions: dict[str, str] = {"AWSCURRENT": "1"}
        self.online = True
        self.calls = 0

    def rotate(self, version: str) -> None:
        self.versions = {"AWSPREVIOUS": self.versions["AWSCURRENT"], "AWSCURRENT": version}

    async def fetch(self, secret: str, version: str | None, stage: str | None) -> dict[str, Any]:
        self.calls += 1
        if not self.online:
            raise AwsError("ServiceUnavailableException", "no link", 503)
        found = self.versions.get(stage or "AWSCURRENT")
        if found is None or secret not in (ARN, ARN[:-7]):
            raise AwsError("ResourceNotFoundException", "Secrets Manager can't find it", 400)
        stages = [label for label, each in self.versions.items() if each == found]
        return {
            "ARN": ARN,
            "Name": "pump/key",
            "VersionId": found,
            "VersionStages": stages,
            "SecretString": f"hush {found}",
        }


def drive(
    folder: Path, cloud: Cloud, configuration: dict[str, Any] | None, work: Callable[[SecretManager], Awaitable[None]]
) -> list[str]:
    said: list[str] = []

    async def main() -> None:
        manager = SecretManager(cloud.fetch, folder / "s.db", b"key", lambda *words: said.append(" ".join(words)))
        await manager.configure(configuration)
        await manager.start()
        try:
            await work(manager)
        finally:
            await manager.stop()

    asyncio.run(main())
    return said


async def value(manager: SecretManager, *asked: Any) -> str:
    return str((await manager.get("pump/key", *asked))["SecretString"])


def test_labels_versions_and_refresh(tmp_path: Path) -> None:
    cloud = Cloud()

    async def work(manager: SecretManager) -> None:
        assert await value(manager, None, None) == "hush 1"
        cloud.rotate("2")
        assert await value(manager, None, None) == "hush 1"
        assert await value(manager, None, None, True) == "hush 2"
        assert await value(manager, None, "AWSPREVIOUS", True) == "hush 1"
        assert await value(manager, "1", None) == "hush 1"
        assert (await manager.get(ARN, "2", None))["VersionStages"] == ["AWSCURRENT"]
        cloud.rotate("3")
        assert await value(manager, None, None, True) == "hush 3"
        for asked, text in (
            (("9", None), "Version Id 9 not found for secret pump/key"),
            ((None, "blue"), "Version stage blue not found for secret pump/key"),
        ):
            with pytest.raises(AwsError, match=text):
                await manager.get("pump/key", *asked)
        with pytest.raises(AwsError, match="Secret not configured other"):
            await manager.get("other", None, None)

    said = drive(tmp_path, cloud, LISTED, work)
    assert "AWSPREVIOUS can't be fetched" in " ".join(said)


def test_a_core_that_is_offline_reads_what_it_kept(tmp_path: Path) -> None:
    cloud = Cloud()

    async def first(manager: SecretManager) -> None:
        assert await value(manager, None, None) == "hush 1"

    async def offline(manager: SecretManager) -> None:
        for refresh in (False, True):
            assert await value(manager, None, None, refresh) == "hush 1"

    async def unlisted(manager: SecretManager) -> None:
        with pytest.raises(AwsError, match="not configured"):
            await value(manager, None, None)

    drive(tmp_path, cloud, LISTED, first)
    cloud.online = False
    assert "no link" in " ".join(drive(tmp_path, cloud, LISTED, offline))
    kept = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"hush" not in kept and b"pump/key" in kept
    assert all(file.stat().st_mode & 0o077 == 0 for file in tmp_path.glob("s.db"))
    drive(tmp_path, cloud, {"cloudSecrets": []}, unlisted)
    store = SecretStore(tmp_path / "s.db", b"key")
    assert store.arns() == {}
    store.close()


def test_secrets_are_refreshed_in_time(tmp_path: Path) -> None:
    cloud = Cloud()

    async def work(manager: SecretManager) -> None:
        cloud.rotate("2")
        async with asyncio.timeout(20):
            while await value(manager, None, None) != "hush 2":
                await asyncio.sleep(0.001)
        await manager.configure({"cloudSecrets": [{"arn": ARN[:-7]}]})
        assert await value(manager, None, None) == "hush 2"
        await manager.configure(None)
        calls = cloud.calls
        assert (await manager.get(ARN, None, None))["SecretString"] == "hush 2" and cloud.calls == calls + 1

    drive(tmp_path, cloud, {**LISTED, "periodicRefreshIntervalMin": "0.0002"}, work)


def test_another_key_opens_nothing(tmp_path: Path) -> None:
    secret = {"ARN": ARN, "Name": "n", "VersionId": "1", "VersionStages": ["AWSCURRENT"]}
    binary = base64.b64encode(b"\0").decode()
    for key, found in ((b"one", True), (b"two", False), (None, False)):
        store = SecretStore(tmp_path / "s.db", key)
        if key == b"one":
            store.put({**secret, "SecretBinary": binary}, {"AWSCURRENT"})
        read = store.get(ARN, None, "AWSCURRENT")
        assert (read is not None) is found
        assert read is None or read["SecretBinary"] == binary
        store.close()
    assert (tmp_path / "s.key").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("configuration", "settings", "said"),
    [
        ({}, Settings({}, None), ""),
        (LISTED, Settings({ARN: frozenset({"AWSCURRENT", "AWSPREVIOUS"})}, None), ""),
        ({"periodicRefreshIntervalMin": "2"}, Settings({}, 120.0), ""),
        ({"periodicRefreshIntervalMin": "often"}, Settings({}, None), "number of minutes"),
        ({"cloudSecrets": [{"arn": "pump"}, 5]}, Settings({}, None), "no ARN of a secret"),
    ],
)
def test_the_configuration(configuration: dict[str, Any], settings: Settings, said: str) -> None:
    found, findings = read_settings(configuration)
    assert found == settings and said in " ".join(findings) and bool(findings) == bool(said)
