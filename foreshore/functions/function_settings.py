"""The Lambda API's settings beside a function's own: concurrency, asynchronous invocation, permissions, tags, URLs.

Source: AWS Lambda API Reference, 2015-03-31 (and its later dates for event invoke configurations and URLs).
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import orjson

from foreshore.errors import AwsError, NotEmulated
from foreshore.functions.operations import Json, Operations, listed, page, stamp
from foreshore.functions.registry import Function
from foreshore.shapes.service_model import CallContext

_EQUAL_TO = {
    "SourceAccount": "AWS:SourceAccount", "FunctionUrlAuthType": "lambda:FunctionUrlAuthType",
    "EventSourceToken": "lambda:EventSourceToken", "PrincipalOrgID": "aws:PrincipalOrgID",
}  # fmt: skip
"""Members of AddPermission, and the condition keys that have to equal them."""


class FunctionSettings(Operations):
    """The operations."""

    # Concurrency

    def do_put_function_concurrency(self, params: Json, context: CallContext) -> Json:
        """PutFunctionConcurrency."""
        function = self._function(params)
        self.functions.set_reserved(function, params["ReservedConcurrentExecutions"])
        self._kept(function)
        return {"ReservedConcurrentExecutions": function.reserved_concurrency}

    def do_get_function_concurrency(self, params: Json, context: CallContext) -> Json:
        """GetFunctionConcurrency."""
        reserved = self._function(params).reserved_concurrency
        return {} if reserved is None else {"ReservedConcurrentExecutions": reserved}

    def do_delete_function_concurrency(self, params: Json, context: CallContext) -> Json:
        """DeleteFunctionConcurrency."""
        function = self._function(params)
        self.functions.set_reserved(function, None)
        self._kept(function)
        return {}

    def do_get_account_settings(self, params: Json, context: CallContext) -> Json:
        """GetAccountSettings, with AWS's default limits."""
        functions = self.registry.functions.values()
        reserved = sum(function.reserved_concurrency or 0 for function in functions)
        return {
            "AccountLimit": {
                "TotalCodeSize": 80530636800, "CodeSizeUnzipped": 262144000, "CodeSizeZipped": 52428800,
                "ConcurrentExecutions": 1000, "UnreservedConcurrentExecutions": 1000 - reserved,
            },
            "AccountUsage": {
                "TotalCodeSize": sum(version.code_size for _, version in self.registry.all_versions()),
                "FunctionCount": len(functions),
            },
        }  # fmt: skip

    # Asynchronous configuration

    def do_put_function_event_invoke_config(self, params: Json, context: CallContext) -> Json:
        """PutFunctionEventInvokeConfig: what is not given goes back to its default."""
        return self._set_invoke_config(params, {})

    def do_update_function_event_invoke_config(self, params: Json, context: CallContext) -> Json:
        """UpdateFunctionEventInvokeConfig."""
        function, qualifier = self._qualified(params)
        return self._set_invoke_config(params, self._invoke_config(function, qualifier))

    def _set_invoke_config(self, params: Json, old: Json) -> Json:
        function, qualifier = self._qualified(params)
        config = {**old, "modified": time.time()}
        if params.get("MaximumRetryAttempts") is not None:
            config["retries"] = params["MaximumRetryAttempts"]
        if params.get("MaximumEventAgeInSeconds") is not None:
            config["max_age"] = params["MaximumEventAgeInSeconds"]
        for key, name in (("on_success", "OnSuccess"), ("on_failure", "OnFailure")):
            destination = ((params.get("DestinationConfig") or {}).get(name) or {}).get("Destination")
            if destination:
                config[key] = destination
        function.invoke_configs[qualifier] = config
        self._kept(function)
        return self._invoke_config_shape(function, qualifier, config)

    def do_get_function_event_invoke_config(self, params: Json, context: CallContext) -> Json:
        """GetFunctionEventInvokeConfig."""
        function, qualifier = self._qualified(params)
        return self._invoke_config_shape(function, qualifier, self._invoke_config(function, qualifier))

    def do_delete_function_event_invoke_config(self, params: Json, context: CallContext) -> Json:
        """DeleteFunctionEventInvokeConfig."""
        function, qualifier = self._qualified(params)
        self._invoke_config(function, qualifier)
        del function.invoke_configs[qualifier]
        self._kept(function)
        return {}

    def do_list_function_event_invoke_configs(self, params: Json, context: CallContext) -> Json:
        """ListFunctionEventInvokeConfigs."""
        function = self._function(params)
        names, token = page(sorted(function.invoke_configs), params)
        shapes = [self._invoke_config_shape(function, each, function.invoke_configs[each]) for each in names]
        return listed("FunctionEventInvokeConfigs", shapes, token)

    def _invoke_config(self, function: Function, qualifier: str) -> Json:
        config = function.invoke_configs.get(qualifier)
        if config is None:
            arn = self.registry.arn(function.name, qualifier)
            raise AwsError("ResourceNotFoundException", f"The function {arn} doesn't have an EventInvokeConfig", 404)
        return config

    def _invoke_config_shape(self, function: Function, qualifier: str, config: Json) -> Json:
        destinations = {}
        for key, name in (("on_success", "OnSuccess"), ("on_failure", "OnFailure")):
            destinations[name] = {"Destination": config[key]} if config.get(key) else {}
        shape: Json = {
            "LastModified": datetime.fromtimestamp(config["modified"], UTC),
            "FunctionArn": self.registry.arn(function.name, qualifier),
            "DestinationConfig": destinations,
        }
        if "retries" in config:
            shape["MaximumRetryAttempts"] = config["retries"]
        if "max_age" in config:
            shape["MaximumEventAgeInSeconds"] = config["max_age"]
        return shape

    # Permissions and tags

    def do_add_permission(self, params: Json, context: CallContext) -> Json:
        """AddPermission. The statement is kept and shown; local callers are not checked against it."""
        function, qualifier = self._qualified(params, "")
        statements = function.statements.setdefault(qualifier, {})
        if params["StatementId"] in statements:
            raise AwsError(
                "ResourceConflictException",
                f"The statement id ({params['StatementId']}) provided already exists. Please provide a new "
                "statement id, or remove the existing statement.", 409, {"Type": "User"},
            )  # fmt: skip
        principal = params["Principal"]
        statement: Json = {
            "Sid": params["StatementId"],
            "Effect": "Allow",
            "Principal": _principal(principal),
            "Action": params["Action"],
            "Resource": self.registry.arn(function.name, qualifier),
        }
        condition: Json = {}
        if params.get("SourceArn"):
            condition["ArnLike"] = {"AWS:SourceArn": params["SourceArn"]}
        for name, key in _EQUAL_TO.items():
            if params.get(name):
                condition.setdefault("StringEquals", {})[key] = params[name]
        if params.get("InvokedViaFunctionUrl") is not None:
            condition["Bool"] = {"lambda:InvokedViaFunctionUrl": str(bool(params["InvokedViaFunctionUrl"])).lower()}
        if condition:
            statement["Condition"] = condition
        statements[params["StatementId"]] = statement
        self._kept(function)
        return {"Statement": orjson.dumps(statement).decode()}

    def do_remove_permission(self, params: Json, context: CallContext) -> Json:
        """RemovePermission."""
        function, qualifier = self._qualified(params, "")
        if function.statements.get(qualifier, {}).pop(params["StatementId"], None) is None:
            raise AwsError(
                "ResourceNotFoundException", f"Statement {params['StatementId']} is not found in resource policy.", 404
            )
        self._kept(function)
        return {}

    def do_get_policy(self, params: Json, context: CallContext) -> Json:
        """GetPolicy."""
        function, qualifier = self._qualified(params, "")
        statements = function.statements.get(qualifier)
        if not statements:
            raise AwsError("ResourceNotFoundException", "The resource you requested does not exist.", 404)
        policy = {"Version": "2012-10-17", "Id": "default", "Statement": list(statements.values())}
        return {"Policy": orjson.dumps(policy).decode(), "RevisionId": function.latest.revision}

    def do_tag_resource(self, params: Json, context: CallContext) -> Json:
        """TagResource."""
        function = self._tagged(params)
        function.tags |= params["Tags"]
        self._kept(function)
        return {}

    def do_untag_resource(self, params: Json, context: CallContext) -> Json:
        """UntagResource."""
        function = self._tagged(params)
        for key in params["TagKeys"]:
            function.tags.pop(key, None)
        self._kept(function)
        return {}

    def do_list_tags(self, params: Json, context: CallContext) -> Json:
        """ListTags."""
        return {"Tags": dict(self._tagged(params).tags)}

    def _tagged(self, params: Json) -> Function:
        if ":function:" not in params["Resource"]:
            raise NotEmulated(f"tags of {params['Resource']}")
        return self.registry.get(self.registry.name_of(params["Resource"]))

    # Function URLs

    def do_create_function_url_config(self, params: Json, context: CallContext) -> Json:
        """CreateFunctionUrlConfig."""
        function, qualifier = self._qualified(params, "")
        if qualifier in function.url_configs:
            arn = self.registry.arn(function.name, qualifier)
            text = f"Failed to create function url config for [functionArn = {arn}]. Error message:  FunctionUrlConfig "
            raise AwsError("ResourceConflictException", text + "exists for this Lambda function", 409)
        now = stamp(time.time())
        config = {
            "FunctionUrl": self.functions.make_url(function.name, qualifier, params.get("Cors")),
            "FunctionArn": self.registry.arn(function.name, qualifier),
            "AuthType": params["AuthType"],
            "InvokeMode": params.get("InvokeMode") or "BUFFERED",
            "CreationTime": now,
            "LastModifiedTime": now,
        }
        if params.get("Cors"):
            config["Cors"] = params["Cors"]
        self._set_url(function, qualifier, config)
        return {name: value for name, value in config.items() if name != "LastModifiedTime"}

    def do_update_function_url_config(self, params: Json, context: CallContext) -> Json:
        """UpdateFunctionUrlConfig."""
        function, qualifier = self._qualified(params, "")
        config = {**self._url_config(function, qualifier), "LastModifiedTime": stamp(time.time())}
        for key in ("AuthType", "InvokeMode", "Cors"):
            if params.get(key) is not None:
                config[key] = params[key]
        self.functions.make_url(function.name, qualifier, config.get("Cors"))
        return self._set_url(function, qualifier, config)

    def _set_url(self, function: Function, qualifier: str, config: Json) -> Json:
        if config["InvokeMode"] != "BUFFERED":
            raise NotEmulated("the RESPONSE_STREAM mode of function URLs")
        function.url_configs[qualifier] = config
        self._kept(function)
        return config

    def do_get_function_url_config(self, params: Json, context: CallContext) -> Json:
        """GetFunctionUrlConfig."""
        function, qualifier = self._qualified(params, "")
        return self._url_config(function, qualifier)

    def do_delete_function_url_config(self, params: Json, context: CallContext) -> Json:
        """DeleteFunctionUrlConfig."""
        function, qualifier = self._qualified(params, "")
        self._url_config(function, qualifier)
        del function.url_configs[qualifier]
        self.functions.remove_url(function.name, qualifier)
        self._kept(function)
        return {}

    def do_list_function_url_configs(self, params: Json, context: CallContext) -> Json:
        """ListFunctionUrlConfigs."""
        function = self._function(params)
        names, token = page(sorted(function.url_configs), params)
        return listed("FunctionUrlConfigs", [function.url_configs[each] for each in names], token)

    def _url_config(self, function: Function, qualifier: str) -> Json:
        config = function.url_configs.get(qualifier)
        if config is None:
            raise AwsError("ResourceNotFoundException", "The resource you requested does not exist.", 404)
        return config


def _principal(principal: str) -> Any:
    if principal == "*":
        return principal
    return {"Service": principal} if principal.endswith(".amazonaws.com") else {"AWS": principal}
