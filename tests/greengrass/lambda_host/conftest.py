"""Lets the tests of this folder import what they share, and greengrasssdk find the shims."""

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import foreshore.greengrass.lambda_host as lambda_host
from foreshore.cli.from_lambda import command
from foreshore.errors import UserError

sys.path.insert(0, str(Path(__file__).parent))
sys.path.append(str(Path(lambda_host.__file__).parent / "shims"))

from lambda_definition import DEFINITION, HANDLER, SUBSCRIPTIONS


@pytest.fixture
def turned(tmp_path: Path) -> Path:
    """A project made by the command."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code/counter.py").write_text(HANDLER)
    (tmp_path / "definition.json").write_text(json.dumps(DEFINITION))
    (tmp_path / "router.json").write_text(json.dumps(SUBSCRIPTIONS))
    project = tmp_path / "project"
    arguments = [str(tmp_path / "definition.json"), "--code", str(tmp_path / "code"), "--handler", "counter.handler"]
    arguments += ["--subscriptions", str(tmp_path / "router.json")]
    result = CliRunner().invoke(command, arguments, obj={"project": str(project)}, catch_exceptions=False)
    assert result.exit_code == 0
    assert "dependency aws.greengrass.LambdaManager dropped" in result.output
    assert "isolationMode GreengrassContainer: a generic component runs as a plain process" in result.output
    assert "containerParams.devices" in result.output
    with pytest.raises(UserError, match="is there already"):
        CliRunner().invoke(command, arguments, obj={"project": str(project)}, catch_exceptions=False)
    return project
