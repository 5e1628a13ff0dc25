"""`foreshore component from-lambda`: a Lambda component definition and its code become a generic component."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import click
import yaml

from foreshore.errors import UserError
from foreshore.greengrass.from_lambda import Code, Converted, convert
from foreshore.greengrass.host_artifact import prepare_project, sources

REQUIREMENTS = {"awsiotsdk": "awsiotsdk>=1.31\ngreengrasssdk>=1.6.1\n", "slim": "greengrasssdk>=1.6.1\n"}


@click.command(name="from-lambda")
@click.argument("definition", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--code", "code_folder", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="The folder that the function's deployment package is made of.")  # fmt: skip
@click.option("--handler", required=True, metavar="MODULE.FUNCTION", help="The function's handler.")
@click.option("--route", "routes", multiple=True, metavar="FILTER=PUB_SUB|IOT_CORE",
              help="Where publishes to topics of this filter go; may be given more than once.")  # fmt: skip
@click.option("--subscriptions", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Configuration of the legacy subscription router: JSON or YAML with `subscriptions`.")  # fmt: skip
@click.option("--invokes", multiple=True, metavar="FUNCTION", help="A function that this one invokes; may be repeated.")
@click.option("--shadow", "shadows", multiple=True, metavar="THING[/NAME]",
              help="A shadow that it reads and writes; may be repeated.")  # fmt: skip
@click.option("--secret", "secrets", multiple=True, metavar="NAME|ARN", help="A secret that it reads; may be repeated.")
@click.option("--client", type=click.Choice(("awsiotsdk", "slim")), default="awsiotsdk", show_default=True,
              help="The IPC client of the host.")  # fmt: skip
@click.option("--force", is_flag=True, help="Overwrite what is there.")
@click.pass_context
def command(
    ctx: click.Context,
    definition: Path,
    code_folder: Path,
    handler: str,
    routes: tuple[str, ...],
    subscriptions: Path | None,
    invokes: tuple[str, ...],
    shadows: tuple[str, ...],
    secrets: tuple[str, ...],
    client: str,
    force: bool,
) -> None:
    """Turn the Lambda component DEFINITION into recipes/NAME.yaml and edge_components/NAME/.

    DEFINITION is JSON or YAML: the input of CreateComponentVersion, or its member lambdaFunction.
    """
    project = Path((ctx.obj or {}).get("project", "."))
    document = _document(definition)
    converted = convert(
        document.get("lambdaFunction", document),
        code_of(code_folder, handler),
        [_route(text) for text in routes],
        _document(subscriptions).get("subscriptions") if subscriptions else None,
        client,
        invokes,
        shadows,
        secrets,
    )
    for path in write(converted, code_folder, project, client, force):
        click.echo(f"wrote {path}")
    for note in converted.notes:
        click.echo(f"note: {note}")


def _document(path: Path) -> dict[str, Any]:
    """A JSON or YAML object (JSON is YAML). Raises UserError."""
    try:
        found = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"neither JSON nor YAML: {error}", code="lambda-definition", where=str(path)) from error
    if not isinstance(found, dict):
        raise UserError("not an object", code="lambda-definition", where=str(path))
    return found


def _route(text: str) -> dict[str, str]:
    topic, equals, kind = text.rpartition("=")
    if not equals or kind not in ("PUB_SUB", "IOT_CORE"):
        mend = "write --route 'devices/#=IOT_CORE'"
        raise UserError(f"--route {text}: expected FILTER=PUB_SUB or FILTER=IOT_CORE", code="usage", mend=mend)
    return {"topic": topic, "type": kind}


def code_of(folder: Path, handler: str) -> Code:
    """A flat folder's files are artifacts one by one; a nested one becomes `code.zip`. Raises UserError."""
    module, dot, _ = handler.rpartition(".")
    if not dot or not (folder / f"{module.replace('.', '/')}.py").is_file():
        raise UserError(
            f"no {module or handler}.py for the handler {handler}",
            code="handler-missing",
            where=str(folder),
            mend="name it as MODULE.FUNCTION, the module being a file of the code folder",
        )
    files = [path.relative_to(folder) for path in sources(folder)]
    if any(len(path.parts) > 1 for path in files) or len(files) > 20:
        return Code(handler, ("code.zip",), is_zipped=True)
    return Code(handler, tuple(sorted({*(path.name for path in files), "requirements.txt"})))


def write(converted: Converted, code_folder: Path, project: Path, client: str, force: bool) -> list[Path]:
    """Write recipe and component folder, then lay the artifacts out. Raises UserError when something is in the way."""
    recipe = project / "recipes" / f"{converted.name}.yaml"
    folder = project / "edge_components" / converted.name
    in_place = folder.exists() and folder.resolve() == code_folder.resolve()
    for path in (recipe, *(() if in_place else (folder,))):
        if path.exists() and not force:
            raise UserError("is there already", code="exists", where=str(path), mend="use --force to overwrite it")
    recipe.parent.mkdir(parents=True, exist_ok=True)
    recipe.write_text(yaml.safe_dump(converted.recipe, sort_keys=False, width=120))
    for source in () if in_place else sources(code_folder):
        target = folder / source.relative_to(code_folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    requirements = folder / "requirements.txt"
    if not requirements.exists():
        requirements.write_text(REQUIREMENTS[client])
    prepare_project(project)
    return [recipe, folder]
