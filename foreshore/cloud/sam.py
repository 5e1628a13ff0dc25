"""Expand a SAM template with aws-sam-translator, in a child process, cached by content.

The translator imports boto3 and takes half a second to load, so it runs as `python -m foreshore.cloud.sam` and its
answer is kept in `<cache>/<sha-256>.json`; a start with unchanged templates never loads it. The translator wants code
in S3: a local `CodeUri` is passed through as `s3://local/<path>` and turned back into a plain path, the form that
`aws cloudformation package` reads (`Code: path/`).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from foreshore.cloud.templates import load
from foreshore.errors import UserError

LOCAL_BUCKET = "local"
_VERSION = b"3"


async def expand(path: Path, parameters: dict[str, Any], region: str, cache: Path) -> dict[str, Any]:
    """Give the CloudFormation form of a template; one without the SAM transform comes back as it is."""
    try:
        text = await asyncio.to_thread(path.read_text, "utf-8")
    except OSError as error:
        raise UserError(f"can't read the template: {error.strerror}", code="template", where=str(path)) from error
    template = load(text, str(path))
    if not _is_sam(template):
        return template
    key = hashlib.sha256(
        b"\0".join([_VERSION, text.encode(), json.dumps(parameters, sort_keys=True).encode(), region.encode()])
    )
    kept = cache / f"{key.hexdigest()}.json"
    if kept.is_file():
        result: dict[str, Any] = json.loads(kept.read_bytes())
        return result
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "foreshore.cloud.sam", str(path), json.dumps(parameters), region,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    if process.returncode != 0:
        lines = err.decode("utf-8", "replace").strip().splitlines()
        raise UserError(lines[-1] if lines else "the SAM translator failed", code="template", where=str(path))
    cache.mkdir(parents=True, exist_ok=True)
    partial = kept.with_suffix(".part")
    partial.write_bytes(out)
    partial.replace(kept)
    result = json.loads(out)
    return result


def _is_sam(template: dict[str, Any]) -> bool:
    transforms = template.get("Transform")
    names = transforms if isinstance(transforms, list) else [transforms]
    return any(str(name).startswith("AWS::Serverless") for name in names)


def _uris_to_s3(template: dict[str, Any]) -> None:
    """Rewrite local CodeUri and ContentUri, of functions, layers and Globals, as s3://local/…"""
    properties = [resource.get("Properties") or {} for resource in template["Resources"].values()]
    globals_ = template.get("Globals") or {}
    for holder in [*properties, globals_.get("Function") or {}, globals_.get("LayerVersion") or {}]:
        for name in ("CodeUri", "ContentUri"):
            value = holder.get(name)
            if isinstance(value, str) and not value.startswith("s3://"):
                holder[name] = f"s3://{LOCAL_BUCKET}/{value}"


def _codes_to_paths(template: dict[str, Any]) -> None:
    """Turn the stand-in S3 locations back into plain local paths."""
    for resource in template["Resources"].values():
        properties = resource.get("Properties") or {}
        for name in ("Code", "Content"):
            code = properties.get(name)
            if isinstance(code, dict) and code.get("S3Bucket") == LOCAL_BUCKET:
                properties[name] = code["S3Key"]


def translate(path: Path, parameters: dict[str, Any], region: str) -> dict[str, Any]:
    """Expand in this process. Raises UserError naming each resource that is wrong."""
    import os

    os.environ["AWS_DEFAULT_REGION"] = region
    from samtranslator.model.exceptions import InvalidDocumentException
    from samtranslator.translator.transform import transform

    template = load(path.read_text("utf-8"), str(path))
    _uris_to_s3(template)
    try:
        result: dict[str, Any] = transform(template, parameters, _AwsManagedPolicies())
    except InvalidDocumentException as error:
        causes = "; ".join(str(cause.message) for cause in error.causes) or str(error.message)
        raise UserError(causes, code="template", where=str(path)) from error
    _codes_to_paths(result)
    return result


class _AwsManagedPolicies:
    """Names of AWS's managed policies to ARNs, without asking IAM."""

    def load(self) -> dict[str, str]:
        """The translator falls back to the names as they are."""
        return {}


if __name__ == "__main__":
    try:
        print(json.dumps(translate(Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3])))
    except UserError as problem:
        print(problem.what, file=sys.stderr)
        sys.exit(2)
