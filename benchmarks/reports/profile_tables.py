"""Tables of result files inside documents: a marked block names the file and is filled with its table.

A block begins with ``<!-- profile-table: PATH; keep 1, 0.7; columns tokens, keep, speedup -->`` and ends with
``<!-- profile-table: end -->``. Everything between the two lines is replaced. Without ``keep`` all rows are shown, without
``columns`` all columns. ``tokens 4096`` chooses lengths, ``table errors`` a side table. Rows that were not measured appear only
where the column ``status`` does.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erecap.profiling.cli import summary, title
from erecap.profiling.device_measurements import side_tables
from erecap.profiling.results import read_result
from erecap.profiling.table import columns_of

_END = "<!-- profile-table: end -->"
_START = re.compile(r"^<!-- profile-table: (?!end)(?P<terms>.*?) -->$", re.MULTILINE)
_BLOCK = re.compile(rf"(?P<start>{_START.pattern}\n)(?P<body>(?s:.*?))^{re.escape(_END)}$", re.MULTILINE)
_WORDS = ("status", "what", "of", "decoder", "part", "remedy", "found", "devices", "figure", "basis", "source", "file")
"""Columns that are not numbers."""


@dataclass(frozen=True)
class TableRequest:
    """What a block asks for.

    Attributes
    ----------
    path
        The result file, relative to the root of the documents.
    keeps
        Keep ratios whose rows are shown; empty for all.
    columns
        Columns; empty for all.
    tokens
        Prompt lengths whose rows are shown; empty for all.
    table
        One of the file's side tables (``side_tables``); empty for the main one.
    """

    path: str
    keeps: tuple[float, ...] = ()
    columns: tuple[str, ...] = ()
    tokens: tuple[int, ...] = ()
    table: str = ""

    @classmethod
    def parse(cls, terms: str) -> "TableRequest":
        """Read the words of a block's first line.

        Raises
        ------
        ValueError
            For another term than ``keep ...``, ``tokens ...``, ``columns ...`` and ``table ...``.
        """
        path, *rest = (term.strip() for term in terms.split(";"))
        keeps, columns, tokens, table = tuple[float, ...](), tuple[str, ...](), tuple[int, ...](), ""
        for term in rest:
            name, _, values = term.partition(" ")
            listed = [value.strip() for value in values.split(",")]
            if name == "keep":
                keeps = tuple(float(value) for value in listed)
            elif name == "columns":
                columns = tuple(listed)
            elif name == "tokens":
                tokens = tuple(int(value) for value in listed)
            elif name == "table":
                table = values.strip()
            else:
                raise ValueError(
                    f"{term!r} in a profile-table block is not known: write `keep 1, 0.7`, `tokens 4096`, `columns tokens, keep` "
                    "or `table errors`"
                )
        return cls(path, keeps, columns, tokens, table)

    def rows(self, content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """Return the rows of ``content`` that are asked for.

        Raises
        ------
        ValueError
            For a side table that the file does not have.
        """
        sides = {side.name: side.rows for side in side_tables(dict(content))}
        if self.table and self.table not in sides:
            raise ValueError(f"{self.path} has no table {self.table!r}: it has {', '.join(sides) or 'the main one only'}")
        found: Sequence[Mapping[str, Any]] = sides[self.table] if self.table else summary(dict(content))
        return [
            row
            for row in found
            if (not self.keeps or row.get("keep") in self.keeps) and (not self.tokens or row.get("tokens") in self.tokens)
        ]


def fill_tables(text: str, root: Path, place: Path) -> str:
    """Return ``text`` with every block filled from its result file.

    Parameters
    ----------
    text
        The document.
    root
        Directory that the paths of result files start from.
    place
        Directory of the document, for links to the result files.

    Raises
    ------
    ValueError
        For a file that cannot be read, a column that its table lacks, or a block without an end.
    """
    filled = _BLOCK.sub(lambda block: f"{block['start']}{_table(TableRequest.parse(block['terms']), root, place)}{_END}", text)
    begun, ended = len(_START.findall(filled)), len(re.findall(rf"^{re.escape(_END)}$", filled, re.MULTILINE))
    if begun != ended:
        raise ValueError(f"{begun} profile-table blocks begin and {ended} end: close each with {_END}")
    return filled


def _table(request: TableRequest, root: Path, place: Path) -> str:
    content = read_result(root / request.path)
    rows = request.rows(content)
    known, measured = columns_of(rows), [row for row in rows if row.get("status", "ok") == "ok"]
    wrong = [name for name in request.columns if name not in known]
    if wrong:
        raise ValueError(f"the table of {request.path} has no column {', '.join(wrong)}: it has {', '.join(known)}")
    columns = request.columns or [name for name in known if name != "status" or len(measured) < len(rows)]
    link = Path(os.path.relpath(root / request.path, place)).as_posix()
    command = "" if request.columns else f", by `{content['command']}`"
    caption = f"{title(content)}{command} ([{Path(request.path).name}]({link})):"
    return f"{caption}\n\n{markdown(rows if 'status' in columns else measured, columns)}\n"


def markdown(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Return ``rows`` as a Markdown table of ``columns``, numbers aligned to the right."""
    lines = [
        f"| {' | '.join(columns)} |",
        f"|{'|'.join('---' if name in _WORDS else '---:' for name in columns)}|",
        *(f"| {' | '.join(str(row.get(name, '')) for name in columns)} |" for row in rows),
    ]
    return "\n".join(lines)
