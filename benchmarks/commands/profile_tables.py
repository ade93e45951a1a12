"""``erecap profile tables``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.output.files import write_atomically
from benchmarks.reports.profile_tables import fill_tables

DOCUMENTS = ("README.md", "docs/profiling.md", "docs/devices.md")


def run_tables(words: Sequence[str]) -> int:
    """Fill the tables of the documents that ``words`` name; return 1 where ``--check`` finds one that is out of date."""
    parser = argparse.ArgumentParser(
        prog="erecap profile tables",
        description="Fill the blocks <!-- profile-table: RESULT.json --> of documents with the tables of their result files.",
    )
    parser.add_argument("documents", type=Path, nargs="*", help=f"documents; by default {', '.join(DOCUMENTS)} below the root")
    parser.add_argument("--root", type=Path, default=Path(), help="directory that the paths of result files start from")
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 where a table is out of date")
    args = parser.parse_args(words)
    old = 0
    for document in args.documents or [args.root / name for name in DOCUMENTS]:
        before = _read(document)
        after = fill_tables(before, args.root, document.parent)
        old += before != after
        if before != after and not args.check:
            write_atomically(document, after)
        sys.stdout.write(f"{document}: {'up to date' if before == after else 'out of date' if args.check else 'written'}\n")
    return int(args.check and old > 0)


def _read(document: Path) -> str:
    try:
        return document.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"document {str(document)!r} cannot be read ({error.strerror}): name one that can") from error
