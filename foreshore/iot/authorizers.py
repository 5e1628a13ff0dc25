"""Custom authorizers: their life in the API, and the decision of a Lambda function on a connection.

An authorizer is named by the username's query string (`?x-amz-customauthorizer-name=…`), by a WebSocket's or HTTP
request's query or headers, by the domain configuration of the connection's SNI, or it is the account's default. Its
token is checked by signature unless that is switched off.

Source: AWS IoT developer guide, "Custom authentication and authorization", "Defining your Lambda function".
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Awaitable, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from foreshore.errors import AwsError, NotEmulated
from foreshore.iot.access import Context, Identity, PolicyAccess
from foreshore.iot.listing import markers
from foreshore.iot.mqtt.access import ConnectDecision, ConnectRequest
from foreshore.iot.policies import MAX_DOCUMENT, Policy, PolicyError, parse
from foreshore.iot.store import Document, Ground, Tags
from foreshore.seams import Invoke
from foreshore.shapes.service_model import CallContext, OperationHandler

Params = dict[str, Any]
NAME = "x-amz-customauthorizer-name"
SIGNATURE = "x-amz-customauthorizer-signature"
MIN_TTL_S, MAX_TTL_S = 300, 86_400
MAX_POLICIES = 10
_PRINCIPAL = re.compile(r"[a-zA-Z0-9]{1,128}")


class Authorizers:
    """The authorizer half of the control plane, and `authorize` for `PolicyAccess`."""

    def __init__(self, ground: Ground, tags: Tags, access: PolicyAccess, invoke: Invoke | None) -> None:
        self._ground = ground
        self._tags = tags
        self._access = access
        self._invoke = invoke
        self._settings = ground.kind("setting")
        self._domains = ground.kind("domain-configuration")
        self.kind = ground.kind("authorizer")

    def operations(self) -> dict[str, OperationHandler]:
        """AWS's operations by name."""
        return {
            "CreateAuthorizer": self.create,
            "DescribeAuthorizer": self.describe,
            "UpdateAuthorizer": self.update,
            "DeleteAuthorizer": self.delete,
            "ListAuthorizers": self.list_all,
            "SetDefaultAuthorizer": self.set_default,
            "DescribeDefaultAuthorizer": self.describe_default,
            "ClearDefaultAuthorizer": self.clear_default,
            "TestInvokeAuthorizer": self.test,
        }

    # The API

    def _arn(self, name: str) -> str:
        return self._ground.arns.iot(f"authorizer/{name}")

    def _named(self, name: str) -> Document:
        return {"authorizerName": name, "authorizerArn": self._arn(name)}

    def find(self, name: str) -> Document:
        """An authorizer. Raises AwsError ResourceNotFoundException."""
        found = self.kind.get(name)
        if found is None:
            raise AwsError("ResourceNotFoundException", f"Authorizer {name} not found", 404)
        return found

    def create(self, params: Params, context: CallContext) -> Document:
        """CreateAuthorizer."""
        name = params["authorizerName"]
        if name in self.kind:
            extra = {"resourceId": name, "resourceArn": self._arn(name)}
            raise AwsError("ResourceAlreadyExistsException", f"Authorizer {name} already exists", 409, extra)
        document = {key: value for key, value in params.items() if key != "tags"}
        self._check(document)
        now = self._ground.clock()
        base = {"status": "INACTIVE", "signingDisabled": False, "enableCachingForHttp": False}
        self.kind.put(name, {**base, **document, "creationDate": now, "lastModifiedDate": now})
        self._tags.set(self._arn(name), params.get("tags"))
        return self._named(name)

    def _check(self, document: Document) -> None:
        if document.get("signingDisabled"):
            return
        if not document.get("tokenKeyName") or not document.get("tokenSigningPublicKeys"):
            text = "tokenKeyName and tokenSigningPublicKeys are required when signing is enabled."
            raise AwsError("InvalidRequestException", text, 400)
        for pem in document["tokenSigningPublicKeys"].values():
            try:
                key = serialization.load_pem_public_key(pem.encode())
            except ValueError:
                raise AwsError("InvalidRequestException", "A signing key is no PEM public key.", 400) from None
            if not isinstance(key, rsa.RSAPublicKey):
                raise AwsError("InvalidRequestException", "A signing key has to be an RSA key.", 400)

    def describe(self, params: Params, context: CallContext) -> Document:
        """DescribeAuthorizer."""
        found = self.find(params["authorizerName"])
        return {"authorizerDescription": {**found, "authorizerArn": self._arn(found["authorizerName"])}}

    def update(self, params: Params, context: CallContext) -> Document:
        """UpdateAuthorizer."""
        found = self.find(params["authorizerName"])
        changed = {**found, **params, "lastModifiedDate": self._ground.clock()}
        self._check(changed)
        self.kind.put(found["authorizerName"], changed)
        return self._named(found["authorizerName"])

    def delete(self, params: Params, context: CallContext) -> None:
        """DeleteAuthorizer: not the default one, and not an ACTIVE one."""
        found = self.find(params["authorizerName"])
        name = found["authorizerName"]
        if self._default() == name:
            raise AwsError("DeleteConflictException", f"{name} is the default authorizer.", 409)
        if found["status"] == "ACTIVE":
            raise AwsError("DeleteConflictException", f"{name} is ACTIVE.", 409)
        self.kind.delete(name)
        self._tags.drop(self._arn(name))

    def list_all(self, params: Params, context: CallContext) -> Document:
        """ListAuthorizers."""
        status = params.get("status")
        names = [each["authorizerName"] for each in self.kind.values() if status in (None, each["status"])]
        return markers(map(self._named, names), params, "authorizers", key=lambda each: str(each["authorizerName"]))

    def _default(self) -> str | None:
        found: str | None = (self._settings.get("default-authorizer") or {}).get("name")
        return found

    def set_default(self, params: Params, context: CallContext) -> Document:
        """SetDefaultAuthorizer."""
        name = params["authorizerName"]
        self.find(name)
        if self._default() == name:
            raise AwsError("ResourceAlreadyExistsException", f"{name} is the default authorizer already.", 409)
        self._settings.put("default-authorizer", {"name": name})
        return self._named(name)

    def describe_default(self, params: Params, context: CallContext) -> Document:
        """DescribeDefaultAuthorizer."""
        name = self._default()
        if name is None:
            raise AwsError("ResourceNotFoundException", "There is no default authorizer.", 404)
        return self.describe({"authorizerName": name}, context)

    def clear_default(self, params: Params, context: CallContext) -> None:
        """ClearDefaultAuthorizer."""
        self.describe_default(params, context)
        self._settings.delete("default-authorizer")

    async def test(self, params: Params, context: CallContext) -> Document:
        """TestInvokeAuthorizer."""
        authorizer = self.find(params["authorizerName"])
        token, signature = params.get("token"), params.get("tokenSignature")
        verified = self._is_signed(authorizer, token, signature)
        if not authorizer["signingDisabled"] and not verified:
            raise AwsError("InvalidRequestException", "The token's signature is not valid.", 400)
        data: Document = {}
        if "tlsContext" in params:
            data["tls"] = params["tlsContext"]
        if "httpContext" in params:
            data["http"] = params["httpContext"]
        if "mqttContext" in params:
            mqtt = dict(params["mqttContext"])
            if "password" in mqtt:
                mqtt["password"] = base64.b64encode(mqtt["password"]).decode()
            data["mqtt"] = mqtt
        answer = await self._ask(authorizer, token, verified, data)
        if answer.get("isAuthenticated") is not True:
            return {"isAuthenticated": False}
        _policies_of(answer)
        return {
            "isAuthenticated": True,
            "principalId": answer["principalId"],
            "policyDocuments": [_text(each) for each in answer.get("policyDocuments", [])],
            "refreshAfterInSeconds": answer.get("refreshAfterInSeconds"),
            "disconnectAfterInSeconds": answer.get("disconnectAfterInSeconds"),
        }

    # Deciding

    def authorize(self, request: ConnectRequest) -> Awaitable[ConnectDecision] | None:
        """The decision of the authorizer that a connection names or falls to; None when there is none."""
        if request.certificate is not None and says_nothing(request):
            return None
        values = credentials_of(request)
        named = values.get(NAME)
        if named is None and (request.certificate is not None or request.authorization):
            return None
        name = self._chosen(named, request.sni)
        if name is None:
            return None
        authorizer = self.kind.get(name)
        if authorizer is None or authorizer["status"] != "ACTIVE":
            return _refused()
        return self._decide(authorizer, request, values)

    def _chosen(self, named: str | None, sni: str | None) -> str | None:
        """The authorizer's name by the domain configuration, where the client may override it, or the default."""
        for domain in self._domains.values():
            if sni and domain.get("domainName") == sni and domain["domainConfigurationStatus"] == "ENABLED":
                configuration = domain.get("authorizerConfig") or {}
                if named is not None and configuration.get("allowAuthorizerOverride"):
                    return named
                own: str | None = configuration.get("defaultAuthorizerName")
                if own is not None:
                    return own
        return named or self._default()

    async def _decide(
        self, authorizer: Document, request: ConnectRequest, values: Mapping[str, str]
    ) -> ConnectDecision:
        token = values.get(str(authorizer.get("tokenKeyName", "")).lower())
        verified = self._is_signed(authorizer, token, values.get(SIGNATURE))
        if not authorizer["signingDisabled"] and not verified:
            return ConnectDecision(False)
        try:
            answer = await self._ask(authorizer, token, verified, _protocol_data(request))
            decision = self._read(answer, request)
        except AwsError:
            return ConnectDecision(False)
        if not request.client_id and not authorizer["enableCachingForHttp"]:
            decision.refresh_s = None
        return decision

    def _is_signed(self, authorizer: Document, token: str | None, signature: str | None) -> bool:
        if authorizer["signingDisabled"] or token is None or signature is None:
            return False
        try:
            raw = base64.b64decode(signature)
        except (binascii.Error, ValueError):
            return False
        for pem in authorizer["tokenSigningPublicKeys"].values():
            key = serialization.load_pem_public_key(pem.encode())
            try:
                if isinstance(key, rsa.RSAPublicKey):
                    key.verify(raw, token.encode(), padding.PKCS1v15(), hashes.SHA256())
                    return True
            except InvalidSignature:
                continue
        return False

    async def _ask(self, authorizer: Document, token: str | None, verified: bool, data: Document) -> Document:
        """Invoke the function. Raises AwsError InvalidResponseException for anything but an answer."""
        if self._invoke is None:
            raise NotEmulated("custom authorizers without Lambda", "Start with the lambda room.")
        event: Document = {
            "signatureVerified": verified,
            "protocols": list(data),
            "protocolData": data,
            "connectionMetadata": {"id": self._ground.new_id()},
        }
        if token is not None:
            event["token"] = token
        result = await self._invoke(authorizer["authorizerFunctionArn"], orjson.dumps(event))
        try:
            answer = orjson.loads(result.payload)
        except orjson.JSONDecodeError:
            answer = None
        if result.function_error or not isinstance(answer, dict):
            raise AwsError("InvalidResponseException", "The authorizer function failed.", 400)
        return answer

    def _read(self, answer: Document, request: ConnectRequest) -> ConnectDecision:
        if answer.get("isAuthenticated") is not True:
            return ConnectDecision(False)
        policies, principal = _policies_of(answer), answer["principalId"]
        context: Context = {"aws:sourceip": request.source_ip}
        if request.client_id:
            context["iot:clientid"] = request.client_id
        identity = Identity(principal, None, request.client_id, context, policies=policies)
        self._access.describe_connect(identity, request)
        ttl = _seconds(answer, "disconnectAfterInSeconds")
        refresh = _seconds(answer, "refreshAfterInSeconds") if "refreshAfterInSeconds" in answer else None
        if not request.client_id:  # An HTTP request: its action is asked for later.
            return ConnectDecision(True, identity, principal, ttl_s=ttl, refresh_s=refresh)
        allowed = self._access.allows(identity, "iot:Connect", f"client/{request.client_id}")
        return ConnectDecision(allowed, identity, principal, ttl_s=ttl, refresh_s=refresh)


async def _refused() -> ConnectDecision:
    return ConnectDecision(False)


def _policies_of(answer: Document) -> tuple[Policy, ...]:
    """The policies of an authorizer's answer. Raises AwsError InvalidResponseException for one that breaks the rules.

    The principal is 1 to 128 letters and digits, the policies at most 10 of at most 2,048 characters, the times are
    numbers ("Defining your Lambda function").
    """
    documents = answer.get("policyDocuments", [])
    if not _PRINCIPAL.fullmatch(str(answer.get("principalId", ""))):
        raise _invalid("principalId has to be 1 to 128 letters and digits")
    if not isinstance(documents, list) or len(documents) > MAX_POLICIES:
        raise _invalid(f"policyDocuments has to be a list of at most {MAX_POLICIES}")
    for name in ("disconnectAfterInSeconds", "refreshAfterInSeconds"):
        if isinstance(answer.get(name, 0), bool) or not isinstance(answer.get(name, 0), int):
            raise _invalid(f"{name} has to be a number")
    texts = [_text(each) for each in documents]
    if any(len(text) > MAX_DOCUMENT for text in texts):
        raise _invalid(f"a policy document has at most {MAX_DOCUMENT} characters")
    try:
        return tuple(parse(text, f"authorizer policy {index + 1}") for index, text in enumerate(texts))
    except PolicyError as error:
        raise _invalid(f"{error.what} ({error.where})") from None


def _invalid(why: str) -> AwsError:
    return AwsError("InvalidResponseException", f"The authorizer's response is not valid: {why}.", 400)


def _seconds(answer: Document, name: str) -> float:
    """A time of an authorizer's answer within AWS's bounds; the longest when it has none."""
    return float(min(max(answer.get(name, MAX_TTL_S), MIN_TTL_S), MAX_TTL_S))


def _text(document: Any) -> str:
    return document if isinstance(document, str) else orjson.dumps(document).decode()


def says_nothing(request: ConnectRequest) -> bool:
    """Whether there is no place where a client could say something to an authorizer."""
    no_query = request.username is None or "?" not in request.username
    return no_query and not request.http_headers and not request.http_query


def credentials_of(request: ConnectRequest) -> dict[str, str]:
    """What a client says to authorizers, by lower-case name: username's query string, URL query, headers."""
    values = {name.lower(): value for name, value in request.http_headers}
    values |= {name.lower(): value for name, value in request.http_query}
    if request.username and "?" in request.username:
        pairs = parse_qsl(request.username.partition("?")[2], keep_blank_values=True)
        values |= {name.lower(): value for name, value in pairs}
    return values


def _protocol_data(request: ConnectRequest) -> Document:
    data: Document = {}
    if request.sni:
        data["tls"] = {"serverName": request.sni}
    if request.http_headers or request.http_query:
        query = urlencode(request.http_query)
        data["http"] = {"headers": dict(request.http_headers), "queryString": f"?{query}" if query else ""}
    if request.client_id:
        mqtt: Document = {"clientId": request.client_id}
        if request.username is not None:
            mqtt["username"] = request.username
        if request.password is not None:
            mqtt["password"] = base64.b64encode(request.password).decode()
        data["mqtt"] = mqtt
    return data
