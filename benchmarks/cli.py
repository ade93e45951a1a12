"""The ``erecap`` command. Each subcommand is a function, or a group of them, in ``benchmarks/commands``, listed there."""

import sys
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.commands import COMMANDS
from benchmarks.logs import configure_logging

USER_ERROR = 2

app = typer.Typer(
    name="erecap",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Embodied agents that replan with an LLM: run them, compare backends, measure what pruning does.",
)


@app.callback()
def _options(verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log details too.")] = False) -> None:
    configure_logging(verbose)


for command_name, command in COMMANDS.items():
    if isinstance(command, typer.Typer):
        app.add_typer(command, name=command_name)
    else:
        app.command(command_name)(command)


def main() -> None:
    """Entry point: a user error (``ValueError``) is one readable message and exit code 2."""
    try:
        app()
    except ValueError as error:
        Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(f"error: {error}")
        sys.exit(USER_ERROR)
