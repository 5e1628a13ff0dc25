"""`foreshore check`: recipes, deployment documents and templates, each finding with file, line and a mend."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from foreshore.errors import UserError
from foreshore.greengrass.checks import Source, check
from foreshore.greengrass.findings import Finding, Severity
from foreshore.greengrass.recipe_store import SUFFIXES, deployment_file, recipe_files
from foreshore.project import Project

_RESOURCES = re.compile(r'^(?:  |\t)?"?Resources"?\s*:', re.MULTILINE)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option("--against", type=click.Path(path_type=Path), help="A folder of earlier recipes to compare with.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a finding.")
@click.option("--strict", is_flag=True, help="Fail on warnings too.")
@click.pass_context
def command(ctx: click.Context, paths: tuple[Path, ...], against: Path | None, as_json: bool, strict: bool) -> None:
    """Check Greengrass recipes, deployment documents and templates, and tell what to mend.

    PATHS are files or folders of recipes; without them, the project's recipes and templates. Recipes are compared with
    those that a local core has taken, or with --against, for defaults that an upgrade will not apply. Exit code 2 when
    there is an error, 0 when there are only warnings.
    """
    project = Path((ctx.obj or {}).get("project", "."))
    earlier = [_source(file) for file in _earlier(project, against)]
    findings: list[Finding] = []
    files = 0
    for path in paths or _of_project(project):
        if _is_template(path):
            findings += _lint(path)
            files += 1
            continue
        recipes, deployment = _sources(path)
        findings += check(recipes, deployment, earlier)
        files += len(recipes) + (deployment is not None)
    _print(findings, files, as_json)
    errors = sum(each.severity == "error" for each in findings)
    ctx.exit(2 if errors or (strict and findings) else 0)


def _of_project(folder: Path) -> list[Path]:
    project = Project.read(folder)
    found = [project.recipes] if project.recipes is not None else []
    here = Path.cwd()
    places = [*found, *project.templates.values()]
    return [place.relative_to(here) if place.is_relative_to(here) else place for place in places]


def _is_template(path: Path) -> bool:
    return path.is_file() and _RESOURCES.search(path.read_text("utf-8", errors="replace")) is not None


def _lint(path: Path) -> list[Finding]:
    """cfn-lint's findings in a SAM or CloudFormation template."""
    from cfnlint.api import lint_file
    from cfnlint.config import ManualArgs

    found = []
    for match in lint_file(path, config=ManualArgs(regions=["us-east-1"])):
        severity: Severity = "error" if match.rule.severity == "error" else "warning"
        mend = f"see {match.rule.source_url}" if match.rule.source_url else match.rule.shortdesc
        found.append(Finding(str(path), match.linenumber, severity, match.rule.id, match.message, mend))
    return sorted(found)


def _sources(path: Path) -> tuple[list[Source], Source | None]:
    if path.is_dir():
        deployment = deployment_file(path)
        return [_source(file) for file in recipe_files(path)], _source(deployment) if deployment else None
    if not path.is_file():
        raise UserError("there is no such file or folder", code="no-file", where=str(path), mend="name one that exists")
    if path.stem == "deployment":
        return [], _source(path)
    return [_source(path)], None


def _earlier(project: Path, against: Path | None) -> Sequence[Path]:
    """The recipes of `--against`, or those that the project's local cores have taken."""
    if against is not None:
        if not against.is_dir():
            raise UserError("there is no such folder", code="no-file", where=str(against), mend="name one that exists")
        return recipe_files(against)
    stored = (project / ".foreshore").glob("**/packages/recipes/*")
    return sorted(file for file in stored if file.suffix in SUFFIXES)


def _source(file: Path) -> Source:
    try:
        return Source(str(file), file.read_text("utf-8", errors="replace"))
    except OSError as error:
        raise UserError(f"can't be read: {error.strerror}", code="no-file", where=str(file), mend="mend it") from None


def _print(findings: Sequence[Finding], files: int, as_json: bool) -> None:
    if as_json:
        for finding in findings:
            click.echo(json.dumps(asdict(finding)))
        return
    for finding in findings:
        click.echo(str(finding))
    errors = sum(each.severity == "error" for each in findings)
    click.echo(f"{files} files: {errors} errors, {len(findings) - errors} warnings")
