"""aws.greengrass.SecretManager: the secrets that `cloudSecrets` lists, kept on the core and refreshed. Shell.

They are fetched when the configuration changes, every `periodicRefreshIntervalMin` minutes, and on a request with
`refresh`; a core that is offline goes on with what it has. Sources: developer guide, "Secret manager"; secret manager
2.2 for what comes from where. Where the component is not deployed, requests go straight to Secrets Manager.
"""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from foreshore.background import Background
from foreshore.errors import AwsError, ForeshoreError
from foreshore.greengrass.secret_store import SecretStore

NAME = "aws.greengrass.SecretManager"
CURRENT = "AWSCURRENT"
_ARN = re.compile(r"arn:[^:]+:secretsmanager:[a-z0-9-]+:\d{12}:secret:([\w/+=,.@-]+)")
_SUFFIX = re.compile(r"-[A-Za-z0-9]{6}$")

FetchSecret = Callable[[str, str | None, str | None], Awaitable[Mapping[str, Any]]]


class Settings(NamedTuple):
    """`secrets` is {ARN as configured: labels}; `refresh_s` None: only when the configuration changes."""

    secrets: Mapping[str, frozenset[str]]
    refresh_s: float | None


def read_settings(configuration: Mapping[str, Any]) -> tuple[Settings, list[str]]:
    """Settings, and what of the configuration makes no sense."""
    findings, secrets = [], {}
    listed = configuration.get("cloudSecrets")
    for item in listed if isinstance(listed, list) else ():
        arn = str(item.get("arn", "")) if isinstance(item, Mapping) else ""
        if not _ARN.fullmatch(arn):
            findings.append(f"cloudSecrets: {arn!r} is no ARN of a secret")
            continue
        labels = item.get("labels") or ()
        secrets[arn] = frozenset({CURRENT, *map(str, labels if isinstance(labels, list) else ())})
    minutes = 0.0
    try:
        minutes = float(str(configuration.get("periodicRefreshIntervalMin") or 0))
    except ValueError:
        findings.append("periodicRefreshIntervalMin must be a number of minutes")
    return Settings(secrets, minutes * 60 if minutes > 0 else None), findings


class SecretManager:
    """The secrets of one core. `fetch(id, version id, label)` gives Secrets Manager's answer."""

    def __init__(
        self, fetch: FetchSecret, path: Path, key_material: bytes | None, say: Callable[[str, str, str], None]
    ) -> None:
        self._fetch = fetch
        self._store = SecretStore(path, key_material)
        self._say = say
        self._settings: Settings | None = None
        self._worker = Background()
        self._is_started = False

    async def configure(self, configuration: Mapping[str, Any] | None) -> None:
        """Take the component's configuration and fetch what it lists; None: not deployed."""
        self._settings = None
        if configuration is not None:
            self._settings, findings = read_settings(configuration)
            for finding in findings:
                self._say(NAME, "ERROR", finding)
        for arn in self._store.arns():
            if self._settings is not None and self._configured(arn) is None:
                self._store.forget(arn)
        if self._is_started:
            await self._begin()

    async def start(self) -> None:
        """Fetch the secrets and keep them fresh."""
        self._is_started = True
        await self._begin()

    async def stop(self) -> None:
        """Stop; the secrets stay."""
        self._is_started = False
        await self._worker.stop()
        self._store.close()

    async def _begin(self) -> None:
        await self._worker.stop()
        settings = self._settings
        if settings is not None and settings.secrets:
            await self._sync(settings)
            if settings.refresh_s is not None:
                self._worker.start(partial(self._refresh, settings, settings.refresh_s))

    async def _refresh(self, settings: Settings, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            await self._sync(settings)

    async def _sync(self, settings: Settings) -> None:
        for arn, labels in settings.secrets.items():
            for label in sorted(labels):
                await self._download(arn, label, labels)

    async def _download(self, arn: str, label: str, kept: frozenset[str]) -> None:
        """Fetch one label. What can't be fetched is said; what is here stays."""
        try:
            answer = dict(await self._fetch(arn, None, label))
        except ForeshoreError as error:
            text = error.message if isinstance(error, AwsError) else str(error)
            self._say(NAME, "WARN", f"{arn} {label} can't be fetched: {text}")
            return
        if isinstance(answer.get("SecretBinary"), bytes):
            answer["SecretBinary"] = base64.b64encode(answer["SecretBinary"]).decode()
        self._store.put({"VersionStages": [label], **answer}, set(kept))

    async def get(
        self, secret: str, version: str | None, stage: str | None, refresh: bool = False
    ) -> Mapping[str, Any]:
        """A secret by ARN or name, as Secrets Manager answers. Raises AwsError (ResourceNotFoundException, …)."""
        if self._settings is None:
            return await self._fetch(secret, version, stage)
        arn = self._arn(secret)
        known = self._configured(arn) if arn else None
        if arn is None or known is None:
            raise AwsError("ResourceNotFoundException", f"Secret not configured {secret}", 400)
        label = stage or CURRENT
        labels = self._settings.secrets[known]
        found = self._stored(known, version, label)
        if (refresh or found is None) and not version and label in labels:
            await self._download(known, label, labels)
            found = self._stored(known, version, label)
        if found is None:
            what = f"Version Id {version}" if version else f"Version stage {stage}"
            text = f"{what} not found for secret {secret}" if version or stage else f"Secret not found {secret}"
            raise AwsError("ResourceNotFoundException", text, 400)
        return found

    def _stored(self, known: str, version: str | None, label: str) -> dict[str, Any] | None:
        for arn in self._store.arns():
            if _is_same(known, arn):
                return self._store.get(arn, version, label)
        return None

    def _arn(self, secret: str) -> str | None:
        """The ARN of a secret asked for by ARN or name."""
        if _ARN.fullmatch(secret):
            return secret
        for arn, name in self._store.arns().items():
            if name == secret:
                return arn
        assert self._settings is not None
        for arn in self._settings.secrets:
            match = _ARN.fullmatch(arn)
            if match is not None and secret in (match[1], _SUFFIX.sub("", match[1])):
                return arn
        return None

    def _configured(self, arn: str) -> str | None:
        """The ARN as `cloudSecrets` has it."""
        assert self._settings is not None
        return next((each for each in self._settings.secrets if _is_same(each, arn) or _is_same(arn, each)), None)


def _is_same(known: str, arn: str) -> bool:
    """Whether ARNs name one secret; `known` may be partial, without the random suffix (Secrets Manager user guide)."""
    return arn == known or (_SUFFIX.sub("", arn) == known)
