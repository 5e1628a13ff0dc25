"""Topic rules and their destinations as resources: what the `iot` API keeps and hands to the rules engine.

SQL is compiled when a rule is created, so that bad SQL is refused then (SqlParseException), as AWS does. It does not
evaluate anything.

Source: AWS IoT API reference, CreateTopicRule and the destination operations; developer guide, "Rules for AWS IoT".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

from foreshore.errors import AwsError, UserError
from foreshore.iot.listing import tokens
from foreshore.iot.rules.engine import Engine
from foreshore.iot.store import Document, Ground, Tags
from foreshore.shapes.service_model import CallContext, OperationHandler

Params = dict[str, Any]
DEFAULT_SQL_VERSION = "2015-10-08"


_SUMMARIES = {
    "httpUrlProperties": "httpUrlSummary",
    "vpcProperties": "vpcDestinationSummary",
    "influxDBProperties": "influxDBSummary",
}


class TopicRules:
    """The rules half of the control plane. `compile` checks SQL; `engine` runs what is enabled or not."""

    def __init__(self, ground: Ground, tags: Tags, engine: Engine, compile: Callable[[str, str], object]) -> None:
        self._ground = ground
        self._tags = tags
        self._engine = engine
        self._compile = compile
        self.kind = ground.kind("topic-rule")
        self._settings = ground.kind("setting")

    def operations(self) -> dict[str, OperationHandler]:
        """AWS's operations by name."""
        return {
            "CreateTopicRule": self.create,
            "GetTopicRule": self.get,
            "ReplaceTopicRule": self.replace,
            "DeleteTopicRule": self.delete,
            "EnableTopicRule": self.enable,
            "DisableTopicRule": self.disable,
            "ListTopicRules": self.list_all,
            "CreateTopicRuleDestination": self.create_destination,
            "GetTopicRuleDestination": self.get_destination,
            "ListTopicRuleDestinations": self.list_destinations,
            "UpdateTopicRuleDestination": self.update_destination,
            "ConfirmTopicRuleDestination": self.confirm_destination,
            "DeleteTopicRuleDestination": self.delete_destination,
        }

    def restore(self) -> None:
        """Hand every kept rule and destination to the engine."""
        self._engine.destinations.restore((self._settings.get("rule-destinations") or {}).get("all", []))
        for document in self.kind.values():
            self._engine.set_rule(document["ruleName"], document["payload"])

    def _arn(self, name: str) -> str:
        return self._ground.arns.iot(f"rule/{name}")

    def _find(self, name: str) -> Document:
        found = self.kind.get(name)
        if found is None:
            # AWS does not tell a missing rule from a forbidden one.
            raise AwsError("UnauthorizedException", f"Access to topic rule '{name}' was denied", 401)
        return found

    # Rules

    def check(self, payload: Document) -> str:
        """Compile a payload's SQL; gives the FROM filter. Raises AwsError SqlParseException."""
        version = payload.get("awsIotSqlVersion") or DEFAULT_SQL_VERSION
        try:
            rule = self._compile(payload["sql"], version)
        except UserError as error:
            where = f" ({error.where})" if error.where else ""
            raise AwsError("SqlParseException", f"{error.what}{where}", 400) from None
        return str(getattr(rule, "topic_filter", "") or "")

    def put(self, name: str, payload: Document) -> None:
        """Create a rule or replace it. The engine checks actions before anything is kept."""
        pattern = self.check(payload)
        present = self.kind.get(name)
        created = present["createdAt"] if present else self._ground.clock()
        self._engine.set_rule(name, payload)
        self.kind.put(name, {"ruleName": name, "payload": payload, "createdAt": created, "topicPattern": pattern})

    def create(self, params: Params, context: CallContext) -> None:
        """CreateTopicRule."""
        name = params["ruleName"]
        if name in self.kind:
            extra = {"resourceId": name, "resourceArn": self._arn(name)}
            raise AwsError("ResourceAlreadyExistsException", f"Rule with name {name} already exists", 409, extra)
        self.put(name, params["topicRulePayload"])
        self._tags.set(self._arn(name), _parse_tags(params.get("tags")))

    def replace(self, params: Params, context: CallContext) -> None:
        """ReplaceTopicRule."""
        self._find(params["ruleName"])
        self.put(params["ruleName"], params["topicRulePayload"])

    def get(self, params: Params, context: CallContext) -> Document:
        """GetTopicRule."""
        document = self._find(params["ruleName"])
        payload = document["payload"]
        rule = {
            "ruleDisabled": False,
            "awsIotSqlVersion": DEFAULT_SQL_VERSION,
            **payload,
            "ruleName": document["ruleName"],
            "createdAt": document["createdAt"],
        }
        return {"ruleArn": self._arn(document["ruleName"]), "rule": rule}

    def delete(self, params: Params, context: CallContext | None) -> None:
        """DeleteTopicRule; none by that name is fine."""
        name = params["ruleName"]
        if name in self.kind:
            self.kind.delete(name)
            self._engine.remove_rule(name)
            self._tags.drop(self._arn(name))

    def _switch(self, name: str, disabled: bool) -> None:
        document = self._find(name)
        payload = {**document["payload"], "ruleDisabled": disabled}
        self.kind.put(name, {**document, "payload": payload})
        self._engine.set_rule(name, payload)

    def enable(self, params: Params, context: CallContext) -> None:
        """EnableTopicRule."""
        self._switch(params["ruleName"], False)

    def disable(self, params: Params, context: CallContext) -> None:
        """DisableTopicRule."""
        self._switch(params["ruleName"], True)

    def list_all(self, params: Params, context: CallContext) -> Document:
        """ListTopicRules, by topic filter and state."""
        shown = []
        for each in self.kind.values():
            disabled = bool(each["payload"].get("ruleDisabled", False))
            pattern = each["topicPattern"]
            if params.get("ruleDisabled", disabled) != disabled or params.get("topic", pattern) != pattern:
                continue
            shown.append(
                {
                    "ruleArn": self._arn(each["ruleName"]),
                    "ruleName": each["ruleName"],
                    "topicPattern": each["topicPattern"],
                    "createdAt": each["createdAt"],
                    "ruleDisabled": disabled,
                }
            )
        return tokens(shown, params, "rules", key=lambda each: str(each["ruleName"]))

    # Destinations

    def _keep(self) -> None:
        """Keep the destinations as they are now; a confirmation that fails later is kept with the next change."""
        self._settings.put("rule-destinations", {"all": self._engine.destinations.export()})

    def create_destination(self, params: Params, context: CallContext) -> Document:
        """CreateTopicRuleDestination."""
        made = self._engine.create_destination(params["destinationConfiguration"])
        self._keep()
        return {"topicRuleDestination": made.describe()}

    def get_destination(self, params: Params, context: CallContext) -> Document:
        """GetTopicRuleDestination."""
        return {"topicRuleDestination": self._engine.destinations.get(params["arn"]).describe()}

    def list_destinations(self, params: Params, context: CallContext) -> Document:
        """ListTopicRuleDestinations."""
        shown = []
        for each in self._engine.destinations.all():
            summary = each.describe()
            properties = summary.pop(each.kind)
            shown.append({**summary, _SUMMARIES[each.kind]: properties})
        shown.sort(key=lambda each: str(each["arn"]))
        return tokens(shown, params, "destinationSummaries", key=lambda each: str(each["arn"]))

    def update_destination(self, params: Params, context: CallContext) -> None:
        """UpdateTopicRuleDestination."""
        self._engine.update_destination(params["arn"], params["status"])
        self._keep()

    def confirm_destination(self, params: Params, context: CallContext) -> None:
        """ConfirmTopicRuleDestination."""
        self._engine.confirm_destination(params["confirmationToken"])
        self._keep()

    def delete_destination(self, params: Params, context: CallContext) -> None:
        """DeleteTopicRuleDestination."""
        self._engine.destinations.delete(params["arn"])
        self._keep()


def _parse_tags(header: str | None) -> list[Document] | None:
    """CreateTopicRule takes its tags as the query string `key1=value1&key2=value2` in the header x-amz-tagging."""
    if not header:
        return None
    return [{"Key": key, "Value": value} for key, value in parse_qsl(header, keep_blank_values=True)]
