"""The consoles of the command line. Texts of users, models and paths are printed as they are: no ``[bold]``, no ``:smile:``."""

from rich.console import Console
from rich.progress import TextColumn

FILE_WIDTH = 240  # characters


def plain_console(stderr: bool = False) -> Console:
    """Make a console on stdout or stderr that reads no markup and no emoji codes out of what it prints."""
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def result_console() -> Console:
    """Make a console on stdout. On a file or a pipe it is ``FILE_WIDTH`` wide, so that tables are not wrapped."""
    console = plain_console()
    if not console.is_terminal:
        console.width = FILE_WIDTH
    return console


def text_column(template: str) -> TextColumn:
    """Make a column of a progress bar that reads no markup and no emoji codes out of its text."""
    return TextColumn(template, markup=False)
