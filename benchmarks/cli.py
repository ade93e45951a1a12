"""The ``erecap`` command. Its subcommands are the functions and groups that ``benchmarks/commands`` lists."""

import sys
from errno import EDQUOT, EFBIG, ENOSPC
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from benchmarks.commands import COMMANDS, SETTINGS
from benchmarks.commands.ranks import check_command, launched
from benchmarks.output.logs import configure_logging
from benchmarks.output.signals import as_signalled, stop_on_signals

USER_ERROR = 2  # exit code

app = typer.Typer(
    name="erecap",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Embodied agents that replan with an LLM: run them, compare backends, measure what pruning does.",
)


@app.callback()
def _options(
    context: typer.Context, verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log details too.")] = False
) -> None:
    configure_logging(verbose)
    check_command(context.invoked_subcommand)


for command_name, command in COMMANDS.items():
    if isinstance(command, typer.Typer):
        app.add_typer(command, name=command_name)
    else:
        app.command(command_name, **SETTINGS.get(command_name, {}))(command)


def main() -> None:
    """Run the command line.

    A user error (a ``ValueError``, a path that cannot be read or written, a full disk) ends it with one message and exit code 2.
    """
    try:
        with stop_on_signals(wanted=not launched()) as received:  # torchrun ends its processes itself
            _run(received)
    except ValueError as error:
        _refuse(str(error))
    except MemoryError as error:
        _refuse(f"out of memory ({error or 'of this machine'}): end other processes, or use fewer workers or a smaller model")
    except OSError as error:
        _refuse(_describe(error))


def _run(received: list[int]) -> None:
    try:
        app()
    except SystemExit as end:
        end.code = as_signalled(end.code, received)
        raise


def _describe(error: OSError) -> str:
    if error.filename is not None:
        remedy = "Free some space" if error.errno in (ENOSPC, EDQUOT, EFBIG) else "Name a path that can be read or written"
        return f"{error.filename!r}: {error.strerror}. {remedy}"
    return f"the system refused to read or write ({error.strerror or error}): free some space, and see that the path can be written"


def _refuse(message: str) -> NoReturn:
    Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True).print(f"error: {message}")
    sys.exit(USER_ERROR)


if __name__ == "__main__":  # torchrun -m benchmarks.cli
    main()
