"""The `foreshore` command: a group whose verbs are imported only when they are used.

Each verb is a module `foreshore.cli.<verb>` with a click command (or group) named `command`. `VERBS` is the whole list,
in the order `--help` shows it; the short texts stand here so that help imports no verb.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from typing import Any

import click

from foreshore import __version__
from foreshore.errors import EXIT_BUG, EXIT_USER, AwsError, ForeshoreError, HandlerFailed, UserError

VERBS: dict[str, str] = {
    "dev": "Start the local AWS edge and show its live flow.",
    "exec": "Start the local AWS edge, run a command against it, stop, and exit with its code.",
    "demo": "Replay real sensor data through the whole chain and reconcile every count.",
    "pub": "Publish a message to an MQTT topic.",
    "sub": "Print the messages of MQTT topic filters.",
    "invoke": "Invoke a Lambda function.",
    "request": "Send an HTTP request through a CloudFront distribution and show what the edge did.",
    "rules": "Test IoT SQL and explain why a rule did or did not fire.",
    "policy": "Explain which IoT policy statement allowed or denied.",
    "shadow": "Get, update, delete, list and watch the shadows of a thing.",
    "job": "Create, follow, cancel and delete IoT jobs.",
    "component": "List, deploy, restart and stop Greengrass components; read their configuration and logs.",
    "check": "Check recipes and templates.",
    "simulate": "Run a fleet of simulated devices.",
    "device-advisor": "Test how one device copes with faults, by AWS Device Advisor's test cases.",
    "state": "Show or reset what the edge keeps on disk.",
    "trace": "Show the path of messages.",
    "logs": "Show or follow log lines.",
    "parity": "Show what is emulated, and what is not.",
    "doctor": "Tell what this machine offers and what is in the way.",
    "completion": "Print the shell completion script.",
}


class LazyGroup(click.Group):
    """A group that knows its verbs' names and help lines without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"foreshore.cli.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="foreshore")
@click.option("-C", "project", metavar="DIR", default=".", help="The project's folder (default: this one).")
@click.option("--debug", is_flag=True, help="Show a traceback with errors.")
@click.pass_context
def foreshore(ctx: click.Context, project: str, debug: bool) -> None:
    """An edge and IoT serverless runtime for AWS, on this machine.

    The same files run here and on AWS: Greengrass components, Lambda functions behind IoT rules, Lambda@Edge.
    """
    ctx.obj = {"project": project, "debug": debug}


def main(argv: list[str] | None = None) -> None:
    """Run the command line; every error ends as one clear message and AWS-tool-like exit codes."""
    arguments = sys.argv[1:] if argv is None else argv
    debug = "--debug" in arguments
    try:
        code: Any = foreshore.main(args=arguments, prog_name="foreshore", standalone_mode=False)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    except (UserError, AwsError, HandlerFailed) as error:
        _show(error, debug)
        sys.exit(EXIT_USER if isinstance(error, UserError) else 1)
    except Exception as error:
        _show(error, debug)
        if not debug:
            print("  This is a bug of Foreshore's; --debug shows where.", file=sys.stderr)
        sys.exit(1 if isinstance(error, ForeshoreError) else EXIT_BUG)
    sys.exit(code if isinstance(code, int) else 0)


def _show(error: BaseException, debug: bool) -> None:
    if debug:
        traceback.print_exception(error)
        return
    code = getattr(error, "code", type(error).__name__)
    print(f"foreshore: error[{code}]: {error}", file=sys.stderr)
