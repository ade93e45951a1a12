"""The findings as text for a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any


def format_findings(findings: Sequence[Mapping[str, Any]]) -> str:
    """Return one line per finding, its remedy below it, and how many errors and warnings there are.

    Parameters
    ----------
    findings
        Each with the fields of ``Check``.
    """
    width = max((len(finding["name"]) for finding in findings), default=0)
    lines = []
    for finding in findings:
        lines.append(f"{finding['status']:<8} {finding['name']:<{width}}  {finding['found']}")
        if finding["remedy"]:
            lines.append(f"{'':<8} {'':<{width}}  -> {finding['remedy']}")
    statuses = [finding["status"] for finding in findings]
    return "\n".join([*lines, f"{statuses.count('error')} errors, {statuses.count('warning')} warnings"])
