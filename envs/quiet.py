"""The first import of gymnasium and minigrid, without the banners, notices and warnings that they and pygame print meanwhile.

``PRINTED`` keeps what they print. This module must be imported before anything else imports them.
"""

import contextlib
import importlib
import io
import warnings


def import_quietly(*modules: str) -> str:
    """Import modules, and return what they print, warnings included, instead of printing it."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed), warnings.catch_warnings(record=True) as warned:
        for module in modules:
            importlib.import_module(module)
    return "\n".join([printed.getvalue().strip(), *(str(warning.message) for warning in warned)]).strip()


PRINTED = import_quietly("gymnasium", "minigrid")
"""What they printed."""
