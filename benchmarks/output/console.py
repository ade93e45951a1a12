"""Where results are printed."""

from rich.console import Console

FILE_WIDTH = 240


def result_console() -> Console:
    """A console on stdout, as wide as the terminal; wide enough for every table where stdout is a file or a pipe."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = FILE_WIDTH
    return console
