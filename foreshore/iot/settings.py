"""The account's settings and names: endpoints, event configurations, logging, domain configurations, tags.

They are kept and given back, and others act on them: registry events and jobs on the event configurations,
`log_watch.py` on the logging options, the custom authorizers on the domain configurations.

Source: AWS IoT API reference; developer guide, "Event messages", "Domain configurations".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from foreshore.errors import AwsError, NotEmulated
from foreshore.iot.cloud_logs import EVENTS, LogOptions, read_options
from foreshore.iot.listing import markers, tokens
from foreshore.iot.store import Document, Ground, Tags
from foreshore.shapes.service_model import CallContext, OperationHandler

Params = dict[str, Any]
EVENT_TYPES = (
    "THING", "THING_GROUP", "THING_TYPE", "THING_GROUP_MEMBERSHIP", "THING_GROUP_HIERARCHY", "THING_TYPE_ASSOCIATION",
    "JOB", "JOB_EXECUTION", "POLICY", "CERTIFICATE", "CA_CERTIFICATE",
)  # fmt: skip
_SILENT_EVENTS = ("CA_CERTIFICATE", "CERTIFICATE", "POLICY")
_KEPT_OF_DOMAINS = ("applicationProtocol", "authenticationType", "tlsConfig")


DEFAULT_DOMAINS = {"iot:Data-ATS": "DATA", "iot:CredentialProvider": "CREDENTIAL_PROVIDER", "iot:Jobs": "JOBS"}
"""The domain configurations that every account has, and their service types."""
_TAGGED = {
    "authorizer": "authorizer", "billinggroup": "billing-group", "cacert": "ca-certificate", "cert": "certificate",
    "certificateprovider": "certificate-provider", "command": "command", "job": "job", "jobtemplate": "job-template",
    "policy": "policy", "provisioningtemplate": "provisioning-template", "rolealias": "role-alias",
    "rule": "topic-rule", "thing": "thing", "thinggroup": "thing-group", "thingtype": "thing-type",
}  # fmt: skip
"""An ARN's resource type and the kind such resources are kept under."""


class Settings:
    """Settings of the account. `endpoint(type)` gives `host:port` of an endpoint type; `warn` logs a line."""

    def __init__(self, ground: Ground, tags: Tags, endpoint: Callable[[str], str], warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._ground = ground
        self._tags = tags
        self._endpoint = endpoint
        self._settings = ground.kind("setting")
        self.on_logging: Callable[[], None] = lambda: None
        self.domains = ground.kind("domain-configuration")
        self._levels = ground.kind("logging-level")

    def operations(self) -> dict[str, OperationHandler]:
        """AWS's operations by name."""
        return {
            "DescribeEndpoint": self.describe_endpoint,
            "DescribeEventConfigurations": self.describe_events,
            "UpdateEventConfigurations": self.update_events,
            "GetLoggingOptions": self.get_logging,
            "SetLoggingOptions": self.set_logging,
            "GetV2LoggingOptions": self.get_logging_v2,
            "SetV2LoggingOptions": self.set_logging_v2,
            "SetV2LoggingLevel": self.set_level,
            "ListV2LoggingLevels": self.list_levels,
            "DeleteV2LoggingLevel": self.delete_level,
            "CreateDomainConfiguration": self.create_domain,
            "DescribeDomainConfiguration": self.describe_domain,
            "UpdateDomainConfiguration": self.update_domain,
            "ListDomainConfigurations": self.list_domains,
            "DeleteDomainConfiguration": self.delete_domain,
            "TagResource": self.tag,
            "UntagResource": self.untag,
            "ListTagsForResource": self.list_tags,
        }

    # Endpoint

    def describe_endpoint(self, params: Params, context: CallContext) -> Document:
        """DescribeEndpoint: `host:port` of the local HTTPS listener (MQTT over mutual TLS is on its own port)."""
        kind = params.get("endpointType", "iot:Data")
        if kind not in ("iot:Data", "iot:Data-ATS", "iot:CredentialProvider", "iot:Jobs", "iot:Data-Beta"):
            raise AwsError("InvalidRequestException", f"Endpoint type {kind} is incorrect.", 400)
        return {"endpointAddress": self._endpoint(kind)}

    # Events

    def events_on(self, kind: str) -> bool:
        """Whether event messages of a type are on; all are off at first, as on AWS."""
        return bool((self._settings.get("events") or {}).get("types", {}).get(kind, False))

    def describe_events(self, params: Params, context: CallContext) -> Document:
        """DescribeEventConfigurations."""
        kept = self._settings.get("events") or {}
        types = kept.get("types", {})
        return {
            "eventConfigurations": {kind: {"Enabled": types.get(kind, False)} for kind in EVENT_TYPES},
            "creationDate": kept.get("creationDate"),
            "lastModifiedDate": kept.get("lastModifiedDate"),
        }

    def update_events(self, params: Params, context: CallContext) -> None:
        """UpdateEventConfigurations."""
        now = self._ground.clock()
        kept = self._settings.get("events") or {"types": {}, "creationDate": now}
        given = {key: bool(value.get("Enabled")) for key, value in params.get("eventConfigurations", {}).items()}
        unknown = set(given) - set(EVENT_TYPES)
        if unknown:
            raise AwsError("InvalidRequestException", f"No event type {', '.join(sorted(unknown))}", 400)
        silent = sorted(kind for kind in _SILENT_EVENTS if given.get(kind))
        if silent:
            self._warn(f"event configurations: no events are published for {', '.join(silent)}")
        self._settings.put("events", {**kept, "types": {**kept["types"], **given}, "lastModifiedDate": now})

    # Logging

    def log_options(self) -> LogOptions:
        """The logging options in force."""
        return read_options(self._settings.get("logging"), self._settings.get("logging-v2"), self._levels.values())

    def get_logging(self, params: Params, context: CallContext) -> Document:
        """GetLoggingOptions."""
        return self._settings.get("logging") or {"logLevel": "DISABLED"}

    def set_logging(self, params: Params, context: CallContext) -> None:
        """SetLoggingOptions."""
        self._settings.put("logging", params["loggingOptionsPayload"])
        self.on_logging()

    def get_logging_v2(self, params: Params, context: CallContext) -> Document:
        """GetV2LoggingOptions; `verbose` shows every event type that is written here."""
        found = self._logging_v2()
        if not params.get("verbose"):
            return found
        given = {each["eventType"]: each for each in found.get("eventConfigurations") or ()}
        default = {"logLevel": found["defaultLogLevel"]}
        every = [given.get(event, {"eventType": event, **default}) for event in dict.fromkeys((*EVENTS, *given))]
        return {**found, "eventConfigurations": every}

    def _logging_v2(self) -> Document:
        found = self._settings.get("logging-v2")
        if found is None:
            raise AwsError("NotConfiguredException", "Configurations are not set.", 404)
        return found

    def set_logging_v2(self, params: Params, context: CallContext) -> None:
        """SetV2LoggingOptions."""
        base = {"disableAllLogs": False, "defaultLogLevel": "ERROR"}
        self._settings.put("logging-v2", {**base, **(self._settings.get("logging-v2") or {}), **params})
        self._say_what_is_not_logged(params.get("eventConfigurations") or ())
        self.on_logging()

    def _say_what_is_not_logged(self, events: Iterable[Document]) -> None:
        unknown = sorted({str(each["eventType"]) for each in events} - set(EVENTS))
        if unknown:
            self._warn(f"logging options: no entries are written for {', '.join(unknown)}")

    def set_level(self, params: Params, context: CallContext) -> None:
        """SetV2LoggingLevel."""
        self.get_logging_v2(params, context)
        self._logging_v2()
        target = params["logTarget"]
        self._levels.put(f"{target['targetType']}/{target.get('targetName', '')}", dict(params))
        self.on_logging()

    def list_levels(self, params: Params, context: CallContext) -> Document:
        """ListV2LoggingLevels, the DEFAULT one among them."""
        kept = self.get_logging_v2(params, context)
        default = {"logTarget": {"targetType": "DEFAULT"}, "logLevel": kept["defaultLogLevel"]}
        levels = sorted([default, *self._levels.values()], key=_level_key)
        wanted = params.get("targetType")
        shown = [each for each in levels if wanted in (None, each["logTarget"]["targetType"])]
        return tokens(shown, params, "logTargetConfigurations", key=_level_key)

    def delete_level(self, params: Params, context: CallContext) -> None:
        """DeleteV2LoggingLevel."""
        self._levels.delete(f"{params['targetType']}/{params['targetName']}")
        self.on_logging()

    # Domains

    def _default_domain(self, name: str) -> Document:
        """The domain configuration of one of the account's own endpoints."""
        service = DEFAULT_DOMAINS[name]
        return {
            "domainConfigurationName": name,
            "domainConfigurationArn": self._ground.arns.iot(f"domainconfiguration/{name}"),
            "domainName": self._endpoint(name).partition(":")[0],
            "domainConfigurationStatus": "ENABLED",
            "serviceType": service,
            "domainType": "ENDPOINT",
        }

    def _find_domain(self, name: str) -> Document:
        found = self._default_domain(name) if name in DEFAULT_DOMAINS else self.domains.get(name)
        if found is None:
            raise AwsError("ResourceNotFoundException", "The specified resource does not exist.", 404)
        return found

    def create_domain(self, params: Params, context: CallContext) -> Document:
        """CreateDomainConfiguration. Its authorizer is in force for connections whose SNI is its name."""
        name = params["domainConfigurationName"]
        if name in self.domains or name in DEFAULT_DOMAINS:
            raise AwsError(
                "ResourceAlreadyExistsException", "Domain configuration with given name already exists.", 409
            )
        self._check_domain(params)
        document = {key: value for key, value in params.items() if key != "tags"}
        arn = self._ground.arns.iot(f"domainconfiguration/{name}/{self._ground.new_id()[:5]}")
        document |= {
            "domainConfigurationArn": arn,
            "serverCertificates": [],
            "domainConfigurationStatus": "ENABLED",
            "domainType": "CUSTOMER_MANAGED" if "domainName" in params else "AWS_MANAGED",
            "serviceType": params.get("serviceType", "DATA"),
            "authenticationType": params.get("authenticationType", "DEFAULT"),
            "applicationProtocol": params.get("applicationProtocol", "DEFAULT"),
            "lastStatusChangeDate": self._ground.clock(),
        }
        if "domainName" not in params:
            document["domainName"] = f"{name}.iot.{self._ground.arns.region}.amazonaws.com"
        document.pop("validationCertificateArn", None)
        self.domains.put(name, document)
        self._tags.set(arn, params.get("tags"))
        return {"domainConfigurationName": name, "domainConfigurationArn": arn}

    def _check_domain(self, params: Params) -> None:
        """Raise NotEmulated for what a domain would check and does not here; say what is only kept."""
        if params.get("serverCertificateArns"):
            raise NotEmulated("server certificates of custom domains", "The local CA signs for all endpoints.")
        if (params.get("serverCertificateConfig") or {}).get("enableOCSPCheck"):
            raise NotEmulated("OCSP checks of server certificates")
        if (params.get("clientCertificateConfig") or {}).get("clientCertificateCallbackArn"):
            raise NotEmulated("functions that are asked about client certificates")
        kept = [name for name in _KEPT_OF_DOMAINS if params.get(name) not in (None, "DEFAULT", {})]
        if kept:
            name = params["domainConfigurationName"]
            self._warn(f"domain configuration {name}: {', '.join(kept)} is kept and not enforced")

    def describe_domain(self, params: Params, context: CallContext) -> Document:
        """DescribeDomainConfiguration."""
        found = self._find_domain(params["domainConfigurationName"])
        return {key: value for key, value in found.items() if key != "serverCertificateArns"}

    def update_domain(self, params: Params, context: CallContext) -> Document:
        """UpdateDomainConfiguration."""
        document = dict(self._find_domain(params["domainConfigurationName"]))
        if document["domainType"] == "ENDPOINT":
            raise AwsError("InvalidRequestException", "Domain configurations of default endpoints can't change.", 400)
        self._check_domain(params)
        if params.get("removeAuthorizerConfig"):
            document.pop("authorizerConfig", None)
        if params.get("domainConfigurationStatus", document["domainConfigurationStatus"]) != document["domainConfigurationStatus"]:  # fmt: skip  # noqa: E501
            document["lastStatusChangeDate"] = self._ground.clock()
        document |= {key: value for key, value in params.items() if key != "removeAuthorizerConfig"}
        self.domains.put(document["domainConfigurationName"], document)
        names = ("domainConfigurationName", "domainConfigurationArn")
        return {key: document[key] for key in names}

    def list_domains(self, params: Params, context: CallContext) -> Document:
        """ListDomainConfigurations."""
        wanted = params.get("serviceType")
        names = ("domainConfigurationName", "domainConfigurationArn", "serviceType")
        known = [*map(self._default_domain, DEFAULT_DOMAINS), *self.domains.values()]
        shown = [{key: each[key] for key in names} for each in known if wanted in (None, each["serviceType"])]
        return markers(shown, params, "domainConfigurations", key=lambda each: str(each["domainConfigurationName"]))

    def delete_domain(self, params: Params, context: CallContext) -> None:
        """DeleteDomainConfiguration: it has to be DISABLED."""
        found = self._find_domain(params["domainConfigurationName"])
        if found["domainConfigurationStatus"] != "DISABLED":
            raise AwsError("InvalidRequestException", "Disable the domain configuration before its deletion.", 400)
        self.domains.delete(found["domainConfigurationName"])
        self._tags.drop(found["domainConfigurationArn"])

    # Tags

    def _check_arn(self, arn: str) -> None:
        if not arn.startswith(self._ground.arns.iot("")):
            raise AwsError("InvalidRequestException", f"{arn} is no resource of this account and region.", 400)
        kind, _, name = arn.rpartition(":")[2].partition("/")
        if kind in _TAGGED and name not in self._ground.kind(_TAGGED[kind]):
            raise AwsError("ResourceNotFoundException", f"The resource {arn} was not found.", 404)

    def tag(self, params: Params, context: CallContext) -> None:
        """TagResource: at most 50 tags."""
        arn = params["resourceArn"]
        self._check_arn(arn)
        if any(tag["Key"].lower().startswith("aws:") for tag in params["tags"]):
            raise AwsError("InvalidRequestException", "Tag keys that begin with aws: are reserved.", 400)
        keys = {tag["Key"] for tag in self._tags.of(arn)} | {tag["Key"] for tag in params["tags"]}
        if len(keys) > 50:
            raise AwsError("LimitExceededException", "A resource may have at most 50 tags.", 410)
        self._tags.set(arn, params["tags"])

    def untag(self, params: Params, context: CallContext) -> None:
        """UntagResource."""
        self._check_arn(params["resourceArn"])
        self._tags.remove(params["resourceArn"], params["tagKeys"])

    def list_tags(self, params: Params, context: CallContext) -> Document:
        """ListTagsForResource."""
        self._check_arn(params["resourceArn"])
        return tokens(self._tags.of(params["resourceArn"]), params, "tags", key=lambda tag: str(tag["Key"]))


def _level_key(each: Document) -> str:
    target = each["logTarget"]
    return f"{target['targetType']}/{target.get('targetName', '')}"
