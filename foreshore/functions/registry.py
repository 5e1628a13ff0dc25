"""The functions that exist: their versions, aliases, permissions and other settings. Pure.

Names, versions and aliases are AWS's: `$LATEST` changes, a published version never does, an alias points at one or two
versions by weight. Times are epoch seconds and arguments. Sources: AWS Lambda Developer Guide, "Manage Lambda function
versions", "Create an alias for a Lambda function"; API Reference.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from foreshore.errors import AwsError
from foreshore.functions.spec import LATEST, FunctionName, FunctionSpec, parse_name


@dataclass(slots=True)
class Alias:
    """A name for one version, or for two by weight (`extra_weight` of calls go to `extra_version`)."""

    name: str
    version: str
    description: str = ""
    extra_version: str = ""
    extra_weight: float = 0.0
    revision: str = ""


@dataclass(slots=True)
class Version:
    """One version's settings and what the API tells of it."""

    spec: FunctionSpec
    modified: float
    revision: str
    code_sha256: str = ""
    code_size: int = 0


@dataclass(slots=True)
class Function:
    """One function with everything that belongs to it. Settings that have a qualifier are kept by it."""

    name: str
    latest: Version
    versions: dict[str, Version] = field(default_factory=dict)
    aliases: dict[str, Alias] = field(default_factory=dict)
    statements: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    invoke_configs: dict[str, dict[str, Any]] = field(default_factory=dict)
    url_configs: dict[str, dict[str, Any]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    reserved_concurrency: int | None = None
    next_version: int = 1
    is_from_template: bool = False

    def version(self, number: str) -> Version | None:
        """A version by its number, or $LATEST."""
        return self.latest if number == LATEST else self.versions.get(number)


class Registry:
    """All functions of one account and region."""

    def __init__(self, region: str, account: str) -> None:
        self.region = region
        self.account = account
        self.functions: dict[str, Function] = {}

    def arn(self, name: str, qualifier: str = "") -> str:
        """The ARN of a function, a version or an alias."""
        tail = f":{qualifier}" if qualifier else ""
        return f"arn:aws:lambda:{self.region}:{self.account}:function:{name}{tail}"

    def name_of(self, text: str, qualifier: str = "") -> FunctionName:
        """Read a name as callers give it, with the qualifier that comes beside it. Raises AwsError."""
        found = parse_name(text)
        if qualifier and found.qualifier and qualifier != found.qualifier:
            raise AwsError(
                "InvalidParameterValueException",
                "The derived qualifier from the function name does not match the specified qualifier.",
            )
        if found.region and found.region != self.region:
            raise AwsError(
                "ResourceNotFoundException",
                f"Functions from '{found.region}' are not reachable in this region ('{self.region}')", 404,
            )  # fmt: skip
        return found._replace(qualifier=found.qualifier or qualifier)

    def get(self, name: FunctionName) -> Function:
        """The function, whatever the qualifier. Raises AwsError ResourceNotFoundException."""
        function = self.functions.get(name.name)
        if function is None or (name.account and name.account != self.account):
            raise self.not_found(name)
        return function

    def not_found(self, name: FunctionName) -> AwsError:
        """404 in AWS's words."""
        arn = self.arn(name.name, name.qualifier)
        return AwsError("ResourceNotFoundException", f"Function not found: {arn}", 404, {"Type": "User"})

    def resolve(self, name: FunctionName, chance: float = 1.0) -> tuple[Function, Version]:
        """The version that a call reaches. `chance` in [0, 1) chooses between the two versions of a weighted alias."""
        function = self.get(name)
        qualifier = name.qualifier or LATEST
        alias = function.aliases.get(qualifier)
        number = qualifier
        if alias is not None:
            number = alias.extra_version if chance < alias.extra_weight else alias.version
        version = function.version(number)
        if version is None:
            raise self.not_found(name)
        return function, version

    def publish(self, function: Function, now: float, revision: str, description: str | None = None) -> Version:
        """Publish $LATEST. When nothing changed since the newest version, that one is given again, as on AWS."""
        newest = function.versions.get(str(function.next_version - 1))
        spec = function.latest.spec
        if newest is not None and newest.code_sha256 == function.latest.code_sha256:
            comparable = replace(newest.spec, version=LATEST, description=spec.description, code=spec.code)
            if comparable == spec:
                return newest
        number = str(function.next_version)
        function.next_version += 1
        chosen = spec.as_version(number)
        if description is not None:
            chosen = replace(chosen, description=description)
        version = replace(function.latest, spec=chosen, modified=now, revision=revision)
        function.versions[number] = version
        return version

    def all_versions(self) -> Iterator[tuple[Function, Version]]:
        """Every version of every function, $LATEST first."""
        for function in self.functions.values():
            yield function, function.latest
            for version in function.versions.values():
                yield function, version


def sha256_text(data: bytes) -> str:
    """CodeSha256 as the API gives it."""
    return base64.b64encode(hashlib.sha256(data).digest()).decode()
