"""Topic rule destinations and the steps they go through (CreateTopicRuleDestination and its siblings). Pure.

An HTTP destination is IN_PROGRESS until the token that was posted to its confirmation URL comes back
(ConfirmTopicRuleDestination, or a GET of `enableUrl`); only an ENABLED one may be sent to. VPC and InfluxDB
destinations are ENABLED at once: there is no network interface to wait for here.
Source: developer guide, "Working with HTTP action destinations".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

from foreshore.errors import AwsError

_KINDS = {
    "httpUrlConfiguration": ("http", "httpUrlProperties"),
    "vpcConfiguration": ("vpc", "vpcProperties"),
    "influxDBConfiguration": ("influxdb", "influxDBProperties"),
}


@dataclass(slots=True)
class Destination:
    """One destination. Times are seconds since the epoch; `token` is what a confirmation must bring."""

    arn: str
    kind: str
    properties: dict[str, Any]
    status: str
    created: float
    updated: float
    reason: str = ""
    token: str = ""

    def describe(self) -> dict[str, Any]:
        """The service model's TopicRuleDestination."""
        found: dict[str, Any] = {
            "arn": self.arn, "status": self.status, "createdAt": self.created, "lastUpdatedAt": self.updated,
            self.kind: self.properties,
        }  # fmt: skip
        if self.reason:
            found["statusReason"] = self.reason
        return found

    def confirmation(self, enable_url: str) -> dict[str, str]:
        """The document that is posted to the confirmation URL."""
        return {
            "arn": self.arn,
            "confirmationToken": self.token,
            "enableUrl": enable_url,
            "messageType": "DestinationConfirmation",
        }


class Destinations:
    """All destinations of an account and region."""

    def __init__(self, region: str, account: str) -> None:
        self.region = region
        self.account = account
        self._all: dict[str, Destination] = {}

    def create(self, configuration: dict[str, Any], *, uuid: str, token: str, now: float) -> Destination:
        """Make a destination of a TopicRuleDestinationConfiguration. Raises AwsError."""
        keys = [key for key in _KINDS if configuration.get(key)]
        if len(keys) != 1:
            raise AwsError("InvalidRequestException", "A destination has exactly one configuration.", 400)
        kind, properties_name = _KINDS[keys[0]]
        properties = dict(configuration[keys[0]])
        if kind == "http":
            _check_url(properties.get("confirmationUrl", ""))
        arn = f"arn:aws:iot:{self.region}:{self.account}:ruledestination/{kind}/{uuid}"
        status = "IN_PROGRESS" if kind == "http" else "ENABLED"
        reason = "Awaiting confirmation." if kind == "http" else ""
        made = Destination(arn, properties_name, properties, status, now, now, reason, token if kind == "http" else "")
        self._all[arn] = made
        return made

    def get(self, arn: str) -> Destination:
        """Raises AwsError (UnauthorizedException, as AWS calls one that is not there)."""
        found = self._all.get(arn)
        if found is None:
            raise AwsError("UnauthorizedException", f"Access to TopicRuleDestination '{arn}' was denied", 401)
        return found

    def all(self) -> list[Destination]:
        """In the order they were made."""
        return list(self._all.values())

    def confirm(self, token: str, now: float) -> Destination:
        """The token came back: the destination is enabled. Raises AwsError for a token that is none of ours."""
        for found in self._all.values():
            if token and found.token == token:
                found.status, found.reason, found.updated = "ENABLED", "", now
                return found
        raise AwsError("InvalidRequestException", "The confirmation token is invalid or expired.", 400)

    def update(self, arn: str, status: str, *, token: str, now: float) -> Destination:
        """ENABLED and DISABLED after it was confirmed; IN_PROGRESS asks for confirmation again with a new token."""
        found = self.get(arn)
        if status not in ("ENABLED", "DISABLED", "IN_PROGRESS"):
            raise AwsError("InvalidRequestException", f"A destination can't be set to {status}.", 400)
        if status == "ENABLED" and found.status in ("IN_PROGRESS", "ERROR"):
            raise AwsError("InvalidRequestException", "The destination is not confirmed yet.", 400)
        if status == "IN_PROGRESS":
            if found.kind != "httpUrlProperties":
                raise AwsError("InvalidRequestException", "Only an HTTP destination is confirmed.", 400)
            found.token, found.reason = token, "Awaiting confirmation."
        found.status, found.updated = status, now
        return found

    def delete(self, arn: str) -> None:
        """Forget it. Raises AwsError (ResourceNotFoundException)."""
        self.get(arn)
        del self._all[arn]

    def failed(self, arn: str, reason: str, now: float) -> None:
        """The confirmation could not be posted."""
        found = self._all.get(arn)
        if found is not None and found.status == "IN_PROGRESS":
            found.status, found.reason, found.updated = "ERROR", reason, now

    def is_enabled_for(self, url: str, confirmation_url: str) -> bool:
        """Whether an enabled HTTP destination covers a URL: its confirmation URL is the action's or a prefix."""
        for found in self._all.values():
            wanted = found.properties.get("confirmationUrl", "")
            if found.status == "ENABLED" and wanted and (wanted == confirmation_url or url.startswith(wanted)):
                return True
        return False

    def export(self) -> list[dict[str, Any]]:
        """All of them as plain values, for whoever keeps them."""
        return [asdict(found) for found in self._all.values()]

    def restore(self, saved: Iterable[dict[str, Any]]) -> None:
        """Take back what `export` gave."""
        for values in saved:
            found = Destination(**values)
            self._all[found.arn] = found


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise AwsError("InvalidRequestException", f"{url!r} is no HTTPS URL.", 400)
