"""A component version made of a Lambda function: its code and the Lambda host as artifacts, a generic recipe over both.

On AWS the recipe has the type aws.greengrass.lambda, which only the classic nucleus runs; here it is what
`foreshore component from-lambda` makes, which runs on classic and on lite.
Source: API reference, LambdaFunctionRecipeSource.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foreshore.errors import AwsError, NotEmulated, UserError
from foreshore.greengrass.cloud.artifacts import Artifacts, digest_of
from foreshore.greengrass.from_lambda import HOST, Code, convert
from foreshore.greengrass.host_artifact import host_bytes, sources, zipped

CODE = "lambda-artifact.zip"
REQUIREMENTS = "requirements.txt"


@dataclass(frozen=True, slots=True)
class LambdaCode:
    """A function version's handler, runtime and the folder with its files."""

    handler: str
    runtime: str
    folder: Path


LambdaCodeOf = Callable[[str], LambdaCode]
"""`(ARN with a version) -> code`. Raises AwsError ResourceNotFoundException."""


def recipe_of(
    definition: Mapping[str, Any], code_of: LambdaCodeOf, artifacts: Artifacts
) -> tuple[dict[str, Any], list[str]]:
    """The recipe, its artifacts kept, and what of the definition could not be carried over.

    Raises AwsError for a definition that can't be, or for another runtime than Python; NotEmulated for execArgs.
    """
    if (definition.get("componentLambdaParameters") or {}).get("execArgs"):
        raise NotEmulated(
            "execArgs of a Lambda function", "The Lambda host gives a handler its event and context only."
        )
    try:
        converted = convert(definition, Code("", (CODE,), is_zipped=True), client="slim")
    except UserError as error:
        raise AwsError("ValidationException", error.what, 400) from None
    code = code_of(str(definition["lambdaArn"]))
    if not code.runtime.startswith("python"):
        raise AwsError("ValidationException", f"The Lambda host runs Python handlers, not {code.runtime}.", 400)
    converted = convert(definition, Code(code.handler, (CODE,), is_zipped=True), client="slim")
    bodies = {HOST: host_bytes(), CODE: _zipped(code.folder)}
    uris = {name: artifacts.keep(name, body) for name, body in bodies.items()}
    for manifest in converted.recipe["Manifests"]:
        for artifact in manifest["Artifacts"]:
            name = artifact["URI"].rpartition("/")[2]
            artifact |= {"URI": uris[name], "Digest": digest_of(bodies[name]), "Algorithm": "SHA-256"}
    return converted.recipe, converted.notes


def _zipped(folder: Path) -> bytes:
    """The function's files; equal files give equal bytes. A list of requirements is there in any case."""
    members = {path.relative_to(folder).as_posix(): path.read_bytes() for path in sources(folder)}
    members.setdefault(REQUIREMENTS, b"greengrasssdk>=1.6.1\n")
    return zipped(members)
