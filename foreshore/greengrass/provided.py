"""The components of AWS's that the core itself stands for: versions and default configurations. Pure: tables.

A recipe may depend on them and a deployment may configure them, without a recipe of theirs; their configuration is
kept like any other's. The version is the one whose behaviour is followed; any requirement is accepted, and one that
it would not satisfy is logged. Every other `aws.greengrass.*` component is not emulated, and says so.
"""

from __future__ import annotations

from collections.abc import Mapping

from foreshore.greengrass.versions import Version

NUCLEUS = "aws.greengrass.Nucleus"
NUCLEUS_LITE = "aws.greengrass.NucleusLite"
CLI = "aws.greengrass.Cli"
GGC_VERSION = "2.18.0"

PROVIDED: Mapping[str, str] = {
    NUCLEUS: GGC_VERSION,
    NUCLEUS_LITE: "2.6.0",
    CLI: GGC_VERSION,
    "aws.greengrass.TokenExchangeService": "2.0.3",
    "aws.greengrass.ShadowManager": "2.3.9",
    "aws.greengrass.SecretManager": "2.2.0",
    "aws.greengrass.StreamManager": "2.2.1",
    "aws.greengrass.LogManager": "2.3.9",
    "aws.greengrass.telemetry.NucleusEmitter": "1.0.11",
    "aws.greengrass.DiskSpooler": "1.0.5",
    "aws.greengrass.clientdevices.Auth": "2.5.0",
    "aws.greengrass.clientdevices.IPDetector": "2.2.0",
    "aws.greengrass.clientdevices.mqtt.Bridge": "2.3.2",
    "aws.greengrass.clientdevices.mqtt.EMQX": "2.0.1",
    "aws.greengrass.clientdevices.mqtt.Moquette": "2.3.7",
}

PROVIDED_VERSIONS: Mapping[str, Version] = {name: Version.parse(text) for name, text in PROVIDED.items()}

# The recipes' DefaultConfiguration, where a component has one (developer guide, the components' pages). What the edge
# chooses itself, such as the stream manager's port, is left out.
DEFAULTS: Mapping[str, Mapping[str, object]] = {
    "aws.greengrass.ShadowManager": {"strategy": {"type": "realTime"}},
    "aws.greengrass.SecretManager": {"cloudSecrets": []},
    "aws.greengrass.LogManager": {"periodicUploadIntervalSec": "300"},
    "aws.greengrass.StreamManager": {"STREAM_MANAGER_AUTHENTICATE_CLIENT": "true", "LOG_LEVEL": "INFO"},
    "aws.greengrass.telemetry.NucleusEmitter": {
        "pubSubPublish": "true", "mqttTopic": "", "telemetryPublishIntervalMs": "60000",
    },
}  # fmt: skip

ACTED_ON: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "aws.greengrass.clientdevices.Auth": {
        "ca_type": (), "certificateAuthority": (), "certificates": (), "deviceGroups": (),
        "performance": ("maxActiveAuthTokens",), "security": ("clientDeviceTrustDurationMinutes",),
    },
    "aws.greengrass.LogManager": {"logsUploaderConfiguration": (), "periodicUploadIntervalSec": ()},
    "aws.greengrass.SecretManager": {"cloudSecrets": (), "periodicRefreshIntervalMin": ()},
    "aws.greengrass.ShadowManager": {
        "rateLimits": (), "shadowDocumentSizeLimitBytes": (), "strategy": (), "synchronize": (),
    },
}  # fmt: skip
"""The settings of a component that are acted on, and of one that is a map its members, where not all are. A component
that is not here tells itself what has no effect."""


def without_effect(name: str, configuration: Mapping[str, object]) -> list[str]:
    """The settings of a component, `map.member` for members, that nothing here acts on."""
    known = ACTED_ON.get(name)
    if known is None:
        return []
    found = []
    for key, value in configuration.items():
        if key not in known and key != "accessControl":
            found.append(key)
        elif known.get(key) and isinstance(value, Mapping):
            found += [f"{key}.{member}" for member in value if member not in known[key]]
    return found


HINTS: Mapping[str, str] = {
    "aws.greengrass.LambdaManager": "Foreshore's Lambda host runs handlers as generic components.",
    "aws.greengrass.LambdaLauncher": "Foreshore's Lambda host runs handlers as generic components.",
    "aws.greengrass.LambdaRuntimes": "Foreshore's Lambda host runs handlers as generic components.",
}
