"""The console that results are printed on."""

from rich.console import Console

FILE_WIDTH = 240  # characters


def result_console() -> Console:
    """Make a console on stdout. On a file or a pipe it is ``FILE_WIDTH`` wide, so that tables are not wrapped."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = FILE_WIDTH
    return console
