"""Logging of the command line: one readable line per event on stderr, stdout is for results."""

import logging
import sys
from typing import Any

import structlog


def configure_logging(verbose: bool = False) -> None:
    """Send structlog's events to stderr, from ``info`` up, or from ``debug`` up where ``verbose``."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S"),
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if verbose else logging.INFO),
        logger_factory=_to_stderr,
    )


def _to_stderr(*_: Any) -> structlog.PrintLogger:
    """A logger on what is stderr now: a progress bar puts itself in its place while it is drawn."""
    return structlog.PrintLogger(sys.stderr)
