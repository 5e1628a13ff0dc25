"""AWS IoT policies: parse a document, and decide whether statements allow an action on a resource. Pure.

Default deny; an explicit Deny wins; otherwise one Allow is enough. `*` matches any text over topic levels and `?` one
character; MQTT's `+` and `#` are literals. A policy variable that can't be resolved, or whose value holds `* $ + ? #`
or is longer than 1,024 characters, is not substituted, and its resource or condition does not match.

It does not know where the policies of a principal come from (`policy_resources.py`) nor who asks (`access.py`).

Sources: AWS IoT developer guide, "AWS IoT Core policies", "AWS IoT Core policy variables", "Policy actions"; IAM user
guide, "IAM JSON policy elements: Condition operators".
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import orjson

from foreshore.errors import UserError

MAX_DOCUMENT = 2048
"""Characters of a policy document, white space not counted (AWS IoT Core quotas)."""

MAX_KEPT_ACTIONS = 256

ACTIONS = frozenset(
    {
        "iot:Connect", "iot:Publish", "iot:Receive", "iot:RetainPublish", "iot:Subscribe", "iot:GetRetainedMessage",
        "iot:ListRetainedMessages", "iot:GetThingShadow", "iot:UpdateThingShadow", "iot:DeleteThingShadow",
        "iot:ListNamedShadowsForThing", "iot:DescribeJobExecution", "iot:GetPendingJobExecutions",
        "iot:StartNextPendingJobExecution", "iot:UpdateJobExecution", "iot:AssumeRoleWithCertificate",
        "iot:DeleteConnection",
    }
)  # fmt: skip
"""The actions that AWS IoT asks a policy about."""

Context = Mapping[str, str | Sequence[str]]
"""Policy variables and condition keys of one request by lower-case name, e.g. `iot:clientid`."""

_VARIABLE = re.compile(r"\$\{([^}]*)\}")
_UNSAFE = frozenset("*$+?#")
_ESCAPES = {"*": r"\*", "?": r"\?", "$": r"\$"}


class PolicyError(UserError):
    """A document that is no IoT policy (AWS: MalformedPolicyException)."""


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement; `policy` and `index` (from 0) say where it stands."""

    policy: str
    index: int
    sid: str
    effect: Literal["Allow", "Deny"]
    actions: tuple[str, ...]
    resources: tuple[str, ...]
    conditions: tuple[tuple[str, str, tuple[str, ...]], ...]

    @property
    def label(self) -> str:
        """What to call it: policy, position (from 1) and Sid."""
        return f"{self.policy}, statement {self.index + 1}" + (f" ({self.sid})" if self.sid else "")


@dataclass(frozen=True, slots=True)
class Policy:
    """A parsed document."""

    name: str
    statements: tuple[Statement, ...]
    _by_action: dict[str, tuple[Statement, ...]] = field(default_factory=dict, compare=False, repr=False)

    def speaking_of(self, action: str) -> tuple[Statement, ...]:
        """The statements that name an action, in their order. Actions are few (AWS's own), so each is kept."""
        found = self._by_action.get(action)
        if found is None:
            found = tuple(each for each in self.statements if has_action(each, action))
            if len(self._by_action) < MAX_KEPT_ACTIONS:
                self._by_action[action] = found
        return found


class Decision(NamedTuple):
    """`allowed`, by which statement (None for the implicit deny), and the variables that had no value."""

    allowed: bool
    statement: Statement | None
    unresolved: tuple[str, ...] = ()

    @property
    def outcome(self) -> Literal["ALLOWED", "EXPLICIT_DENY", "IMPLICIT_DENY"]:
        """AWS's authDecision."""
        if self.allowed:
            return "ALLOWED"
        return "IMPLICIT_DENY" if self.statement is None else "EXPLICIT_DENY"


# Parsing


def parse(document: str | bytes | Mapping[str, Any], name: str = "policy") -> Policy:
    """Parse a policy document. Raises PolicyError that names the statement and the element."""
    if not isinstance(document, Mapping):
        try:
            document = orjson.loads(document)
        except orjson.JSONDecodeError as error:
            raise _malformed(name, f"not JSON: {error}") from None
    if not isinstance(document, Mapping):
        raise _malformed(name, "a policy is a JSON object")
    if document.get("Version") != "2012-10-17":
        raise _malformed(name, 'Version has to be "2012-10-17"')
    unknown = set(document) - {"Version", "Id", "Statement"}
    if unknown:
        raise _malformed(name, f"no such element: {', '.join(sorted(unknown))}")
    statements = document.get("Statement")
    if isinstance(statements, Mapping):
        statements = [statements]
    if not isinstance(statements, list) or not statements:
        raise _malformed(name, "Statement has to be a statement or a list of them")
    return Policy(name, tuple(_statement(name, index, raw) for index, raw in enumerate(statements)))


def _malformed(where: str, what: str) -> PolicyError:
    return PolicyError(what, code="malformed-policy", where=where, mend="see AWS IoT Core policies for the elements")


def _statement(policy: str, index: int, raw: Any) -> Statement:
    where = f"{policy}, statement {index + 1}"
    if not isinstance(raw, Mapping):
        raise _malformed(where, "a statement is a JSON object")
    for element in raw:
        if element not in ("Sid", "Effect", "Action", "Resource", "Condition"):
            raise _malformed(where, f"{element} is no element of an IoT policy statement")
    effect = raw.get("Effect")
    if effect not in ("Allow", "Deny"):
        raise _malformed(where, "Effect has to be Allow or Deny")
    actions = _texts(raw.get("Action"), where, "Action")
    for action in actions:
        service, colon, verb = action.partition(":")
        if action != "*" and not (colon and service and verb):
            raise _malformed(where, f"{action!r} is no action: it names no service, as in iot:Publish")
    resources = _texts(raw.get("Resource"), where, "Resource")
    for resource in resources:
        if resource != "*" and not resource.startswith(("arn:", "*")):
            raise _malformed(where, f"{resource!r} is no ARN")
    conditions = tuple(_conditions(raw.get("Condition", {}), where))
    return Statement(policy, index, str(raw.get("Sid", "")), effect, actions, resources, conditions)


def _texts(value: Any, where: str, element: str) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not values or not all(isinstance(item, str) and item for item in values):
        raise _malformed(where, f"{element} has to be a text or a list of texts")
    return tuple(values)


def _conditions(raw: Any, where: str) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    if not isinstance(raw, Mapping):
        raise _malformed(where, "Condition has to be an object")
    for operator, keys in raw.items():
        if _operator(operator) is None:
            raise _malformed(where, f"{operator} is no condition operator")
        if not isinstance(keys, Mapping):
            raise _malformed(where, f"{operator} has to hold an object")
        for key, values in keys.items():
            texts = values if isinstance(values, list) else [values]
            yield operator, key, tuple(_text(item) for item in texts)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


# Deciding


def decide(policies: Iterable[Policy], action: str, resource: str, context: Context) -> Decision:
    """Decide for an `action` such as `iot:Publish` on a resource ARN."""
    allowed: Statement | None = None
    unresolved: set[str] = set()
    for policy in policies:
        for statement in policy.speaking_of(action):
            if statement.effect == "Allow" and allowed is not None:
                continue
            if not speaks_of(statement, resource, context, unresolved):
                continue
            if statement.effect == "Deny":
                return Decision(False, statement, tuple(sorted(unresolved)))
            allowed = statement
    return Decision(allowed is not None, allowed, tuple(sorted(unresolved)) if unresolved else ())


def matches(
    statement: Statement, action: str, resource: str, context: Context, unresolved: set[str] | None = None
) -> bool:
    """Whether a statement speaks of this request."""
    missing = set() if unresolved is None else unresolved
    return has_action(statement, action) and speaks_of(statement, resource, context, missing)


def has_action(statement: Statement, action: str) -> bool:
    """Whether a statement names an action."""
    return _actions(statement.actions).fullmatch(action) is not None


def speaks_of(statement: Statement, resource: str, context: Context, missing: set[str]) -> bool:
    """Whether a statement's resources and conditions hold; names of unresolved variables are added to `missing`."""
    plain, variable = _resources(statement.resources)
    if plain is None or plain.fullmatch(resource) is None:
        if not variable:
            return False
        if not any(resource_matches(pattern, resource, context, missing) for pattern in variable):
            return False
    return not statement.conditions or all(_holds(*each, context, missing) for each in statement.conditions)


@lru_cache(maxsize=4096)
def _actions(patterns: tuple[str, ...]) -> re.Pattern[str]:
    """One expression for all action patterns of a statement; actions are compared without regard to case."""
    return re.compile("|".join(f"(?:{_glob(pattern).pattern})" for pattern in patterns), re.DOTALL | re.IGNORECASE)


@lru_cache(maxsize=4096)
def _resources(patterns: tuple[str, ...]) -> tuple[re.Pattern[str] | None, tuple[str, ...]]:
    """One expression for the resource patterns without variables (None: there is none), and those with."""
    plain = [_glob(_escaped(pattern)).pattern for pattern in patterns if "${" not in pattern]
    expression = re.compile("|".join(f"(?:{each})" for each in plain), re.DOTALL) if plain else None
    return expression, tuple(pattern for pattern in patterns if "${" in pattern)


def _escaped(pattern: str) -> str:
    """A backslash in a resource is a backslash."""
    return pattern.replace("\\", "\\\\")


@lru_cache(maxsize=4096)
def _glob(pattern: str) -> re.Pattern[str]:
    """A pattern of `*`, `?` and literals; `\\*`, `\\?`, `\\$` stand for the characters themselves."""
    parts = []
    position = 0
    while position < len(pattern):
        character = pattern[position]
        if character == "\\" and pattern[position + 1 : position + 2] in ("*", "?", "$", "\\"):
            parts.append(re.escape(pattern[position + 1]))
            position += 1
        else:
            parts.append({"*": ".*", "?": "."}.get(character) or re.escape(character))
        position += 1
    return re.compile("".join(parts), re.DOTALL)


def resource_matches(pattern: str, resource: str, context: Context, unresolved: set[str]) -> bool:
    """Match a resource ARN with its variables resolved. A name of an unresolved variable is added to `unresolved`."""
    if "${" in pattern:
        return any(_glob(text).fullmatch(resource) for text in substitute(pattern, context, unresolved))
    return _glob(_escaped(pattern)).fullmatch(resource) is not None


def substitute(pattern: str, context: Context, unresolved: set[str]) -> list[str]:
    """Every text that a pattern stands for; none when a variable has no usable value.

    A variable with several values (at most five are looked at) gives one text for each.
    """
    texts = [""]
    position = 0
    for found in _VARIABLE.finditer(pattern):
        literal = pattern[position : found.start()].replace("\\", "\\\\")
        position = found.end()
        values = _variable(found[1], context)
        if not values:
            unresolved.add(found[1])
            return []
        texts = [text + literal + value for text in texts for value in values]
    tail = pattern[position:].replace("\\", "\\\\")
    return [text + tail for text in texts]


def _variable(name: str, context: Context) -> list[str]:
    """The values to put in for `${name}`; IAM's `${*}`, `${?}` and `${$}` are the characters themselves."""
    if name in _ESCAPES:
        return [_ESCAPES[name]]
    name, _, default = name.partition(",")
    value = context.get(name.strip().lower())
    if value is None:
        text = default.strip()
        return [text[1:-1]] if len(text) >= 2 and text[0] == text[-1] == "'" else []
    values = [value] if isinstance(value, str) else list(value)[:5]
    return [text for text in values if len(text) <= 1024 and not _UNSAFE.intersection(text)]


# Conditions

_Test = Callable[[str, str], bool]


def _like(pattern: str, value: str) -> bool:
    return _glob(pattern.replace("\\", "\\\\")).fullmatch(value) is not None


def _arn_like(pattern: str, value: str) -> bool:
    """ARNs are compared part by part: a wildcard does not cross a colon of the first five."""
    wanted, given = pattern.split(":", 5), value.split(":", 5)
    return len(wanted) == len(given) and all(_like(a, b) for a, b in zip(wanted, given, strict=True))


def _numbers(compare: Callable[[Decimal, Decimal], bool]) -> _Test:
    def test(pattern: str, value: str) -> bool:
        try:
            return compare(Decimal(value), Decimal(pattern))
        except InvalidOperation:
            return False

    return test


def _moment(text: str) -> datetime:
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return datetime.fromtimestamp(float(text), UTC)
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _dates(compare: Callable[[datetime, datetime], bool]) -> _Test:
    def test(pattern: str, value: str) -> bool:
        try:
            return compare(_moment(value), _moment(pattern))
        except ValueError:
            return False

    return test


def _in_network(pattern: str, value: str) -> bool:
    try:
        return ipaddress.ip_address(value) in ipaddress.ip_network(pattern, strict=False)
    except ValueError:
        return False


def _same_bytes(pattern: str, value: str) -> bool:
    try:
        return base64.b64decode(pattern, validate=True) == base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return False


_TESTS: dict[str, tuple[_Test, bool]] = {
    "stringequals": (lambda pattern, value: pattern == value, False),
    "stringnotequals": (lambda pattern, value: pattern == value, True),
    "stringequalsignorecase": (lambda pattern, value: pattern.casefold() == value.casefold(), False),
    "stringnotequalsignorecase": (lambda pattern, value: pattern.casefold() == value.casefold(), True),
    "stringlike": (_like, False),
    "stringnotlike": (_like, True),
    "numericequals": (_numbers(lambda value, wanted: value == wanted), False),
    "numericnotequals": (_numbers(lambda value, wanted: value == wanted), True),
    "numericlessthan": (_numbers(lambda value, wanted: value < wanted), False),
    "numericlessthanequals": (_numbers(lambda value, wanted: value <= wanted), False),
    "numericgreaterthan": (_numbers(lambda value, wanted: value > wanted), False),
    "numericgreaterthanequals": (_numbers(lambda value, wanted: value >= wanted), False),
    "dateequals": (_dates(lambda value, wanted: value == wanted), False),
    "datenotequals": (_dates(lambda value, wanted: value == wanted), True),
    "datelessthan": (_dates(lambda value, wanted: value < wanted), False),
    "datelessthanequals": (_dates(lambda value, wanted: value <= wanted), False),
    "dategreaterthan": (_dates(lambda value, wanted: value > wanted), False),
    "dategreaterthanequals": (_dates(lambda value, wanted: value >= wanted), False),
    "bool": (lambda pattern, value: pattern.lower() == value.lower(), False),
    "binaryequals": (_same_bytes, False),
    "ipaddress": (_in_network, False),
    "notipaddress": (_in_network, True),
    "arnequals": (_arn_like, False),
    "arnlike": (_arn_like, False),
    "arnnotequals": (_arn_like, True),
    "arnnotlike": (_arn_like, True),
}
"""Operator → (test of one policy value against one request value, whether the result is negated)."""


class _Operator(NamedTuple):
    name: str
    quantifier: str
    if_exists: bool


@lru_cache(maxsize=256)
def _operator(text: str) -> _Operator | None:
    """Split `ForAnyValue:StringLikeIfExists` into its parts; None when there is no such operator."""
    quantifier, colon, name = text.partition(":")
    if not colon:
        quantifier, name = "", text
    if quantifier.lower() not in ("", "foranyvalue", "forallvalues"):
        return None
    name = name.lower()
    if_exists = name.endswith("ifexists") and name != "null"
    name = name.removesuffix("ifexists")
    if name not in _TESTS and name != "null":
        return None
    return _Operator(name, quantifier.lower(), if_exists)


def _holds(operator: str, key: str, wanted: tuple[str, ...], context: Context, unresolved: set[str]) -> bool:
    """One condition: any wanted value may match, all wanted values must fail when the operator is a negated one."""
    parts = _operator(operator)
    assert parts is not None, operator
    name, quantifier, if_exists = parts
    found = context.get(key.lower())
    if name == "null":
        return any((found is None) == (value.lower() == "true") for value in wanted)
    test, negated = _TESTS[name]
    if found is None:
        if if_exists or quantifier == "forallvalues":
            return True
        unresolved.add(key)
        return negated and not quantifier
    values = [found] if isinstance(found, str) else list(found)
    patterns = [text for value in wanted for text in _condition_texts(value, name, context, unresolved)]

    def fits(value: str) -> bool:
        return any(test(pattern, value) for pattern in patterns) != negated

    if quantifier == "forallvalues":
        return all(fits(value) for value in values)
    if quantifier == "foranyvalue" or not negated:
        return any(fits(value) for value in values)
    return all(fits(value) for value in values)


def _condition_texts(value: str, operator: str, context: Context, unresolved: set[str]) -> list[str]:
    if "${" not in value:
        return [value]
    texts = substitute(value, context, unresolved)
    return [re.sub(r"\\([*?$\\])", r"\1", text) for text in texts] if "like" not in operator else texts


def explain(policies: Sequence[Policy], action: str, resource: str, context: Context) -> tuple[Decision, list[str]]:
    """Decide, and say of every statement why it did or did not matter."""
    decision = decide(policies, action, resource, context)
    lines = []
    for policy in policies:
        for statement in policy.statements:
            lines.append(f"{statement.label}: {_why(statement, action, resource, context)}")
    return decision, lines


def _why(statement: Statement, action: str, resource: str, context: Context) -> str:
    unresolved: set[str] = set()
    if not any(_glob(pattern.lower()).fullmatch(action.lower()) for pattern in statement.actions):
        return f"is not about {action}{_unknown_actions(statement)}"
    if not any(resource_matches(pattern, resource, context, unresolved) for pattern in statement.resources):
        missing = f" (no value for {', '.join(sorted(unresolved))})" if unresolved else ""
        return f"no Resource matches {resource}{missing}"
    for operator, key, wanted in statement.conditions:
        if not _holds(operator, key, wanted, context, unresolved):
            given = context.get(key.lower())
            return f"its condition {operator} {key} {list(wanted)} does not hold for {given!r}"
    return "allows it" if statement.effect == "Allow" else "DENIES it"


def _unknown_actions(statement: Statement) -> str:
    """A hint at misspelt actions: those of `iot:` that AWS IoT asks no policy about."""
    unknown = [
        each
        for each in statement.actions
        if each.lower().startswith("iot:") and not any(_glob(each.lower()).fullmatch(name.lower()) for name in ACTIONS)
    ]
    return f" (AWS IoT never asks for {', '.join(unknown)})" if unknown else ""
