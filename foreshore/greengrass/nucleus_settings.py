"""The configuration of the nucleus, classic or lite: what the core does of it, and what has no effect here. Pure.

Source: Greengrass developer guide, "Greengrass nucleus" (configuration); nucleus, DeviceConfiguration, ProxyUtils.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from foreshore.greengrass.log_lines import LogSettings, read_log_settings

_ACTED_ON = {
    "fleetstatus", "interpolatecomponentconfiguration", "logging", "networkproxy", "platformoverride",
    "runwithdefault", "telemetry",
}  # fmt: skip
_MQTT_ACTED_ON = {"spooler"}
_NO_EFFECT: Mapping[str, str] = {
    "deploymentpollingfrequencyseconds": "deployments begin at once",
    "componentstoremaxsizebytes": "the component store has no limit",
    "ipcsocketpath": "the socket is in the core's root",
    "jvmoptions": "there is no Java here",
    "awsregion": "the region is the project's",
    "iotrolealias": "credentials are the edge's own",
}


@dataclass(frozen=True, slots=True)
class NucleusSettings:
    """What is acted on. `environment` is added to every component's; `platform` overrides this machine's attributes;
    `notes` tell what is not."""

    logging: LogSettings = field(default_factory=LogSettings)
    posix_user: str = ""
    posix_shell: str = "sh"
    environment: Mapping[str, str] = field(default_factory=dict)
    platform: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_nucleus(document: Mapping[str, object]) -> NucleusSettings:
    """Read the nucleus component's configuration; names compare without case."""
    logging, notes = read_log_settings(_get(document, "logging"))
    for key, value in document.items():
        name = str(key).lower()
        if name == "mqtt":
            notes += [f"mqtt.{each} has no effect here" for each in _map(value) if each.lower() not in _MQTT_ACTED_ON]
        elif name not in _ACTED_ON:
            why = _NO_EFFECT.get(name, "")
            notes.append(f"{key} has no effect here" + (f": {why}" if why else ""))
    run_with = _get(document, "runwithdefault")
    if _get(run_with, "systemresourcelimits") is not None:
        notes.append("runWithDefault.systemResourceLimits has no effect here: components run without limits")
    return NucleusSettings(
        logging,
        _text(_get(run_with, "posixuser")),
        _text(_get(run_with, "posixshell")) or "sh",
        _proxy(_get(document, "networkproxy")),
        {str(key): _text(value) for key, value in _map(_get(document, "platformoverride")).items()},
        tuple(notes),
    )


def _proxy(network: object) -> dict[str, str]:
    """The proxy variables, in both cases; none without a URL."""
    proxy = _get(network, "proxy")
    url = _text(_get(proxy, "url"))
    if not url:
        return {}
    user, password = _text(_get(proxy, "username")), _text(_get(proxy, "password"))
    scheme, there, rest = url.partition("://")
    if user and there and "@" not in rest.partition("/")[0]:
        url = f"{scheme}://{user}:{password}@{rest}"
    others = _text(_get(network, "noproxyaddresses"))
    values = {"HTTP_PROXY": url, "HTTPS_PROXY": url, "ALL_PROXY": url}
    values["NO_PROXY"] = f"localhost,{others}" if others else "localhost"
    return {**values, **{name.lower(): value for name, value in values.items()}}


def _map(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _get(value: object, name: str) -> object:
    return next((child for key, child in _map(value).items() if str(key).lower() == name), None)


def _text(value: object) -> str:
    return "" if value is None else str(value)
