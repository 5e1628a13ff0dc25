"""Role aliases and the credential provider: temporary AWS credentials for a certificate over mutual TLS.

Source: AWS IoT developer guide, "Authorizing direct calls to AWS services using AWS IoT Core credential provider".
The credentials are made here; local IAM restricts nobody, so that the role's own policies are not asked.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import orjson

from foreshore.errors import AwsError
from foreshore.http import Response
from foreshore.iot.access import Identity
from foreshore.iot.listing import markers
from foreshore.iot.registry import Registry
from foreshore.iot.store import Document, Ground, Tags
from foreshore.shapes.service_model import CallContext, OperationHandler

Params = dict[str, Any]
DEFAULT_DURATION_S = 3600


class RoleAliases:
    """The role alias half of the control plane."""

    def __init__(self, ground: Ground, tags: Tags) -> None:
        self._ground = ground
        self._tags = tags
        self.kind = ground.kind("role-alias")

    def operations(self) -> dict[str, OperationHandler]:
        """AWS's operations by name."""
        return {
            "CreateRoleAlias": self.create,
            "DescribeRoleAlias": self.describe,
            "UpdateRoleAlias": self.update,
            "ListRoleAliases": self.list_all,
            "DeleteRoleAlias": self.delete,
        }

    def _arn(self, alias: str) -> str:
        return self._ground.arns.iot(f"rolealias/{alias}")

    def find(self, alias: str) -> Document:
        """A role alias. Raises AwsError ResourceNotFoundException."""
        found = self.kind.get(alias)
        if found is None:
            raise AwsError("ResourceNotFoundException", f"Role Alias {alias} not found", 404)
        return found

    def ensure(self, alias: str, role_arn: str) -> None:
        """Create a role alias when there is none."""
        if alias not in self.kind:
            self.create({"roleAlias": alias, "roleArn": role_arn}, None)

    def create(self, params: Params, context: CallContext | None) -> Document:
        """CreateRoleAlias."""
        alias = params["roleAlias"]
        if alias in self.kind:
            extra = {"resourceId": alias, "resourceArn": self._arn(alias)}
            raise AwsError("ResourceAlreadyExistsException", f"RoleAlias {alias} already exists", 409, extra)
        now = self._ground.clock()
        document = {
            "roleAlias": alias,
            "roleArn": params["roleArn"],
            "credentialDurationSeconds": params.get("credentialDurationSeconds", DEFAULT_DURATION_S),
            "creationDate": now,
            "lastModifiedDate": now,
        }
        self.kind.put(alias, document)
        self._tags.set(self._arn(alias), params.get("tags"))
        return {"roleAlias": alias, "roleAliasArn": self._arn(alias)}

    def describe(self, params: Params, context: CallContext) -> Document:
        """DescribeRoleAlias."""
        found = self.find(params["roleAlias"])
        extra = {"roleAliasArn": self._arn(found["roleAlias"]), "owner": self._ground.arns.account}
        return {"roleAliasDescription": {**found, **extra}}

    def update(self, params: Params, context: CallContext) -> Document:
        """UpdateRoleAlias."""
        found = self.find(params["roleAlias"])
        self.kind.put(params["roleAlias"], {**found, **params, "lastModifiedDate": self._ground.clock()})
        return {"roleAlias": params["roleAlias"], "roleAliasArn": self._arn(params["roleAlias"])}

    def list_all(self, params: Params, context: CallContext) -> Document:
        """ListRoleAliases."""
        return markers(self.kind.names(), params, "roleAliases")

    def delete(self, params: Params, context: CallContext) -> None:
        """DeleteRoleAlias."""
        self.find(params["roleAlias"])
        self.kind.delete(params["roleAlias"])
        self._tags.drop(self._arn(params["roleAlias"]))


class CredentialProvider:
    """Answers `GET /role-aliases/<alias>/credentials`. `random_text(n)` gives n random capitals and digits."""

    def __init__(
        self,
        aliases: RoleAliases,
        registry: Registry,
        require: Callable[[Identity, str, str], None],
        clock: Callable[[], float],
        random_text: Callable[[int], str],
    ) -> None:
        self._aliases = aliases
        self._registry = registry
        self._require = require
        self._clock = clock
        self._random_text = random_text

    def answer(self, identity: Identity | None, alias: str, thing: str) -> Response:
        """The credentials for a certificate, or AWS's refusal. `thing` is the header `x-amzn-iot-thingname` or ""."""
        if identity is None or identity.principal_arn is None:
            return _refuse(403, "Invalid Credential: no client certificate")
        found = self._aliases.kind.get(alias)
        if found is None:
            return _refuse(404, "Role alias does not exist")
        if thing and not self._registry.principals.has(thing, identity.principal_arn):
            return _refuse(403, "Invalid thing name passed")
        if thing:
            identity.client_id = thing
        try:
            self._require(identity, "iot:AssumeRoleWithCertificate", f"rolealias/{alias}")
        except AwsError:
            return _refuse(403, "Access Denied")
        expiration = datetime.fromtimestamp(self._clock() + found["credentialDurationSeconds"], UTC)
        credentials = {
            "accessKeyId": "ASIA" + self._random_text(16),
            "secretAccessKey": self._random_text(40),
            "sessionToken": self._random_text(96),
            "expiration": expiration.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        return Response(200, [(b"Content-Type", b"application/json")], orjson.dumps({"credentials": credentials}))


def _refuse(status: int, text: str) -> Response:
    return Response(status, [(b"Content-Type", b"application/json")], orjson.dumps({"message": text}))
