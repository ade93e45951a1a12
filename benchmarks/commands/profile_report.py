"""``erecap profile report``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

TEXT = """Draw the comprehensive figures of one device and of several from result files, as PNG, and write one HTML page with the
pictures and tables of all figures. What was not measured leaves a labelled gap."""


def run_report(words: Sequence[str]) -> int:
    """Run ``erecap profile report`` with the words after it and return the exit code.

    Raises
    ------
    ValueError
        For a directory without results, or a file that is none.
    """
    parser = argparse.ArgumentParser(prog="erecap profile report", description=TEXT)
    parser.add_argument("directories", type=Path, nargs="+", metavar="DIR", help="directory of result files, or such a file")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/profile/report"), help="directory of the report (runs/profile/report)"
    )
    args = parser.parse_args(list(words))
    from benchmarks.reports.profile_report import write_profile_report  # matplotlib takes a second to import

    for path in write_profile_report(args.directories, args.out):
        sys.stdout.write(f"written: {path}\n")
    return 0
