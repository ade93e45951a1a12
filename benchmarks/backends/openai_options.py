"""The options of the backend ``openai``, and the client that they describe."""

import base64
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from benchmarks.backends.remote_errors import RemoteBackendError, causes_of
from planner import BackendSpec, Sampling
from planner.redaction import redact

NAMES = (
    *("base_url", "model", "api_key", "timeout_s", "limit_s"),
    *("max_tokens_name", "temperature", "seed", "stream_options", "extra"),
)
NONE = "none"
"""The value that leaves a parameter out of the request."""
_OURS = frozenset(("model", "messages", "stream"))
_DUMMY_KEYS = frozenset(("", "none", "dummy", "empty", "unused", "no-key", "no-key-required", "not-needed", "local", "test"))


@dataclass(frozen=True)
class Request:
    """How the parameters of a request are written for a server.

    Attributes
    ----------
    max_tokens_name : str
        Name of the limit of new tokens; ``none`` leaves it out.
    temperature : str
        A number instead of the sampling's temperature, ``none`` to leave it out, empty for the sampling's.
    send_seed, send_usage : bool
        Whether to send the seed, and to ask for the numbers of tokens.
    extra : mapping
        More fields of the request.
    """

    max_tokens_name: str = "max_tokens"
    temperature: str = ""
    send_seed: bool = True
    send_usage: bool = True
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def parameters(self, sampling: Sampling) -> dict[str, Any]:
        """Return the parameters of a request, besides model and messages."""
        found: dict[str, Any] = {"stream": True}
        if self.max_tokens_name != NONE:
            found[self.max_tokens_name] = sampling.max_new_tokens
        if self.temperature != NONE:
            found["temperature"] = float(self.temperature) if self.temperature else sampling.temperature
        if self.send_seed:
            found["seed"] = sampling.seed
        if self.send_usage:
            found["stream_options"] = {"include_usage": True}
        return found | ({"extra_body": dict(self.extra)} if self.extra else {})


@dataclass(frozen=True)
class Options:
    """The options of a spec.

    Attributes
    ----------
    model : str
        Name of the model at the endpoint.
    base_url : str or None
        The endpoint, without user and password.
    timeout_s : float
        Most seconds that the server may be silent.
    limit_s : float
        Most seconds of a whole answer, retries included.
    request : Request
        How requests are written.
    key : str or None
        The key, or ``None`` for the one in ``OPENAI_API_KEY``.
    user : str
        User and password of ``base_url``, percent-encoded; empty where there are none.
    """

    model: str
    base_url: str | None
    timeout_s: float
    limit_s: float
    request: Request
    key: str | None = field(default=None, repr=False)
    user: str = field(default="", repr=False)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must stand in no file and no message."""
        environment = os.environ.get("OPENAI_API_KEY", "")
        keys = [key for key in (self.key or "", environment, environment.strip()) if key.lower() not in _DUMMY_KEYS]
        name, _, password = self.user.partition(":")
        return tuple(secret for secret in (*keys, self.user, unquote(password), unquote(name)) if secret)


def read_options(spec: BackendSpec) -> Options:
    """Read the options of a spec.

    Raises
    ------
    ValueError
        For missing and unknown options, and for values that cannot be used.
    """
    options, where = spec.options, f"backend {str(spec)!r}"
    unknown = sorted(set(options) - set(NAMES))
    if unknown:
        raise ValueError(f"{where}: unknown parameters {', '.join(unknown)}: choose from {', '.join(NAMES)}")
    if not options.get("model"):
        raise ValueError(f"{where} names no model: write openai?base_url=http://localhost:8000/v1&model=NAME")
    base_url, user = _split_user(options.get("base_url"), where)
    request = Request(
        options.get("max_tokens_name", "max_tokens"),
        _temperature(options.get("temperature", "")),
        _sent("seed", options.get("seed")),
        _sent("stream_options", options.get("stream_options")),
        _extra(options.get("extra", "{}")),
    )
    timeout_s, limit_s = (
        _seconds(name, options.get(name, default)) for name, default in (("timeout_s", "120"), ("limit_s", "600"))
    )
    return Options(options["model"], base_url, timeout_s, limit_s, request, _checked_key(options.get("api_key"), "api_key"), user)


def make_client(options: Options) -> Any:
    """Make the client of an endpoint.

    Raises
    ------
    ValueError
        Where the client is not installed, and where it refuses the key, the URL or the proxy.
    """
    try:
        import openai
    except ImportError as error:
        raise ValueError("backend openai needs the client: pip install 'erecap[openai]'") from error
    key = options.key or _checked_key(os.environ.get("OPENAI_API_KEY"), "OPENAI_API_KEY")
    headers = {"Authorization": f"Basic {base64.b64encode(unquote(options.user).encode()).decode()}"} if options.user else {}
    try:
        return openai.OpenAI(
            base_url=options.base_url,
            timeout=options.timeout_s,
            api_key=key or ("unused" if options.user else None),
            default_headers=headers,
        )
    except Exception as error:  # the client and its transport raise anything for a bad URL, key or proxy
        said = redact(causes_of(error), options.secrets)
        raise RemoteBackendError(
            f"backend openai: {said} (check base_url, OPENAI_API_KEY and the proxy variables; a local server takes any key: "
            "OPENAI_API_KEY=none)"
        ) from None


def _split_user(url: str | None, where: str) -> tuple[str | None, str]:
    """Split a URL into one without user and password, and these."""
    if url is None:
        return None, ""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable:
        raise ValueError(f"{where}: base_url must be http://HOST:PORT/PATH or https://..., such as http://localhost:8000/v1")
    user, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=host)), user


def _checked_key(key: str | None, name: str) -> str | None:
    if key is not None and not (key.isascii() and key.isprintable() and key == key.strip()):
        raise ValueError(
            f"{name} has white space around it, a line break in it or characters that are not ASCII: copy the key again"
        )
    return key


def _temperature(text: str) -> str:
    if text in ("", NONE):
        return text
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"temperature={text!r} is no number from 0: give one, or temperature=none to leave it out of the request")
    return text


def _sent(name: str, text: str | None) -> bool:
    if text not in (None, NONE):
        raise ValueError(f"{name}={text!r}: the only value is none, which leaves {name} out of the request")
    return text is None


def _extra(text: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise ValueError(f'extra={redact(text)!r} is no JSON object: write more fields of the request such as extra={{"top_k":20}}')
    if ours := sorted(_OURS & set(fields)):
        raise ValueError(f"extra gives {', '.join(ours)}, which the backend writes itself: leave it out")
    return fields


def _seconds(name: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError as error:
        raise ValueError(f"{name}={text!r} is no number: give seconds, such as {name}=120") from error
    if not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(f"{name}={text} must be positive and finite: give seconds, such as {name}=120")
    return seconds
