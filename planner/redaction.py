"""Secrets in texts: user names and passwords in URLs, keys in options, and whatever else a text repeats of them."""

import re
from collections.abc import Iterable
from urllib.parse import quote, unquote

HIDDEN = "***"
"""What stands for a secret."""
_KEY = r"(?:[\w-]*[_-])?(?:key|apikey|token|secret|password|passwd|pwd|authorization|credentials?)"
_IS_KEY = re.compile(_KEY, re.IGNORECASE)
_USER = re.compile(r"(?<=://)[^\s,'\"<>]*@")
_OPTION = re.compile(rf"(?<![\w-])({_KEY})=[^&,\s'\"]+", re.IGNORECASE)
_FIELD = re.compile(rf"""(["']{_KEY}["']\s*:\s*)(["'])(?:(?!\2).)*\2""", re.IGNORECASE)
_BEARER = re.compile(r"\b(Bearer|Basic)\s+[\w.~+/=-]{6,}", re.IGNORECASE)
_OPENAI_KEY = re.compile(r"\bsk-[\w*-]{6,}")
_SHORTEST = 3
"""Characters of the shortest secret that is looked for: a shorter one is part of many words."""


def is_secret_name(name: str) -> bool:
    """Tell whether an option of this name holds a secret, such as ``api_key``."""
    return _IS_KEY.fullmatch(name) is not None


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Hide secrets in a text.

    Parameters
    ----------
    text
        Any text, such as a spec string, or an error that repeats one.
    secrets
        Secrets that are known: they are hidden wherever they stand, percent-encoded too.

    Returns
    -------
    str
        The text with ``***`` for secrets: ``user:password`` in URLs, values of options such as ``api_key``, bearer tokens.
    """
    text = _USER.sub(f"{HIDDEN}@", text)
    text = _FIELD.sub(rf"\1\2{HIDDEN}\2", _OPTION.sub(rf"\1={HIDDEN}", text))
    text = _OPENAI_KEY.sub(HIDDEN, _BEARER.sub(rf"\1 {HIDDEN}", text))
    return hide(text, secrets)


def hide(text: str, secrets: Iterable[str], shortest: int = _SHORTEST) -> str:
    """Hide known secrets in a text, those with at least ``shortest`` characters, where they stand as words of their own."""
    forms = {form for secret in secrets for form in (secret, quote(secret, safe=""), unquote(secret)) if len(secret) >= shortest}
    for form in sorted(forms, key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(form)}(?!\w)", HIDDEN, text)
    return text
