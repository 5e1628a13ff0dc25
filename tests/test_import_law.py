"""Rooms hold pure modules and one shell; user code stands alone."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = {"asyncio", "socket", "ssl", "os", "time", "random", "uuid", "threading", "subprocess"}
ROOMS = ("iot", "greengrass", "functions", "cloudfront", "cloud", "simulate", "shapes")

# The shells: the only modules of a room that do I/O, ask the clock or draw random numbers.
SHELLS = {
    "cloud/backend.py",
    "cloud/endpoint.py",
    "cloud/sam.py",
    "cloud/stack.py",
    "cloudfront/origins.py",
    "cloudfront/pipeline.py",
    "cloudfront/server.py",
    "functions/async_invokes.py",
    "functions/aws.py",
    "functions/code_watch.py",
    "functions/environments.py",
    "functions/event_sources.py",
    "functions/function_settings.py",
    "functions/invocations.py",
    "functions/lambda_api.py",
    "functions/pollers.py",
    "functions/service.py",
    "functions/store.py",
    "functions/workers.py",
    "greengrass/admin.py",
    "greengrass/artifacts.py",
    "greengrass/cloud/service.py",
    "greengrass/cloud_proxy.py",
    "greengrass/component_log.py",
    "greengrass/deployer.py",
    "greengrass/effective_configuration.py",
    "greengrass/fleet_reporter.py",
    "greengrass/log_manager.py",
    "greengrass/processes.py",
    "greengrass/provided_services.py",
    "greengrass/recipe_store.py",
    "greengrass/run_as.py",
    "greengrass/runner.py",
    "greengrass/secret_manager.py",
    "greengrass/server.py",
    "greengrass/service.py",
    "greengrass/shadow_manager.py",
    "greengrass/shadow_sync.py",
    "greengrass/stream_manager/destinations.py",
    "greengrass/stream_manager/exporter.py",
    "greengrass/stream_manager/s3.py",
    "greengrass/stream_manager/service.py",
    "greengrass/supervisor.py",
    "greengrass/update_questions.py",
    "greengrass/telemetry_agent.py",
    "greengrass/watcher.py",
    "iot/advisor/listener.py",
    "iot/advisor/service.py",
    "iot/authority.py",
    "iot/device_server.py",
    "iot/mqtt/client.py",
    "iot/mqtt/server.py",
    "iot/own_things.py",
    "iot/rules/actions/batches.py",
    "iot/rules/actions/kafka.py",
    "iot/rules/ambient.py",
    "iot/rules/engine.py",
    "iot/rules/lookups.py",
    "iot/rules/running.py",
    "iot/log_writer.py",
    "iot/service.py",
    "simulate/fleet.py",
    "simulate/identities.py",
}

# Folders whose files run in a process of their own, as user code's host: they are shells throughout.
HOSTS = ("functions/worker/", "greengrass/lambda_host/")


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return found


def modules() -> list[str]:
    package = ROOT / "foreshore"
    found = sorted(p.relative_to(package).as_posix() for room in ROOMS for p in (package / room).rglob("*.py"))
    return [name for name in found if name not in SHELLS and not name.startswith(HOSTS)]


@pytest.mark.parametrize("module", modules())
def test_a_pure_module_imports_no_io(module: str) -> None:
    roots = {name.partition(".")[0] for name in imports_of(ROOT / "foreshore" / module)}
    assert not roots & FORBIDDEN


def test_every_shell_named_here_exists() -> None:
    assert {name for name in SHELLS if not (ROOT / "foreshore" / name).is_file()} == set()


@pytest.mark.parametrize("folder", ["edge_components", "cloud_functions", "lambda_edge"])
def test_user_code_never_imports_foreshore(folder: str) -> None:
    files = list((ROOT / folder).rglob("*.py"))
    assert files
    for path in files:
        assert not any(name.partition(".")[0] == "foreshore" for name in imports_of(path)), path


def test_lambda_edge_uses_the_standard_library_only() -> None:
    import sys

    for path in (ROOT / "lambda_edge").rglob("*.py"):
        roots = {name.partition(".")[0] for name in imports_of(path)}
        assert roots <= set(sys.stdlib_module_names) | {"__future__"}, path
