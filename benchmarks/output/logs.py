"""Logging of the command line: one line per event, on stderr. Results go to stdout."""

import logging
import sys
from typing import Any

import structlog


def configure_logging(verbose: bool = False) -> None:
    """Send structlog's events to stderr: level ``info`` and above, with ``verbose`` also ``debug``."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S"),
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if verbose else logging.INFO),
        logger_factory=_to_stderr,
    )


def details_wanted() -> bool:
    """Tell whether logging was configured to show details."""
    return bool(structlog.get_logger().is_enabled_for(logging.DEBUG))


def _to_stderr(*_: Any) -> structlog.PrintLogger:
    """Make a logger on the current ``sys.stderr``, which a progress bar replaces while it is drawn."""
    return structlog.PrintLogger(sys.stderr)
