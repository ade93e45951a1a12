"""What an endpoint says when it refuses: its own words, and whether they mean that the prompt is too long.

Codes and wordings are those of OpenAI, Azure, Anthropic, Gemini, Mistral, DeepSeek, Groq and OpenRouter, and of vLLM, SGLang, TGI,
llama.cpp, Ollama and LM Studio.
"""

import json
import re
from typing import Any

from planner.surrogates import join_surrogates

_MOST_WORDS = 600  # characters
_CODES = frozenset(
    (
        *("context_length_exceeded", "context_window_exceeded", "exceed_context_size_error", "context_limit_exceeded"),
        *("prompt_too_long", "input_too_long", "prompt_too_large", "model_context_window_exceeded"),
    )
)
_EXCEEDS = r"(?:exceed(?:s|ed|ing)?|too (?:long|large|many)|(?:longer|larger|greater|more) than|beyond|overflows?)"
_CONTEXT = r"context[ _-]?(?:length|size|window|limit)"
_SUBJECT = r"(?:prompts?|inputs?|requests?|messages|conversation|sequence|requested tokens?|token count)\b"
_TOO_LONG = re.compile(
    "|".join(
        (
            r"maximum (?:context|prompt|input|sequence|model)[ -](?:length|size|window)\b[^.\n]{0,30}\d",
            r"maximum model length",
            rf"{_SUBJECT}[^.:;\n]{{0,80}}{_EXCEEDS}[^.\n]{{0,80}}(?:{_CONTEXT}|\btokens?\b)",
            r"\b(?:prompt|input)s?\b[^.:;\n]{0,20}\btoo long\b",
            rf"{_EXCEEDS}[^.\n]{{0,60}}{_CONTEXT}",
            rf"{_CONTEXT}[^.\n]{{0,40}}(?:exceed(?:s|ed)|overflow|is only|is too small)",
            r"`?inputs`? tokens \+ `?max_new_tokens`? must be",
            r"`?inputs`? must have (?:less|fewer) than \d+ tokens",
            r"reduce the length of (?:the|your) (?:messages|prompt|input)",
            r"exceed(?:s|ed) (?:the )?model(?:'s)? token limit",
            r"token count[^.:;\n]{0,60}exceeds",
            r"too many (?:input |prompt )?tokens",
            r"range of input length should be",
        )
    ),
    re.IGNORECASE,
)
_RATE = re.compile(r"rate.?limit|quota|per[ -](?:minute|day|hour|second)|\bTPM\b|\bRPM\b", re.IGNORECASE)
_TOO_MANY_REQUESTS = 429


class RemoteBackendError(ValueError):
    """An error for an endpoint that could not be reached, refused the request, or sent no whole answer.

    Parameters
    ----------
    message
        What happened.
    body
        What the server sent instead of an answer: a text, or JSON values.
    """

    def __init__(self, message: str, body: Any = None) -> None:
        super().__init__(message)
        self.body = body


def is_too_long(codes: list[str], words: str, status: int | None) -> bool:
    """Tell whether a refusal means that the prompt does not fit into the model's context.

    Parameters
    ----------
    codes
        Codes and types of the error.
    words
        The server's message.
    status
        The HTTP status, where there is one.
    """
    if not _CODES.isdisjoint(codes):
        return True
    if status == _TOO_MANY_REQUESTS or _RATE.search(f"{words} {' '.join(codes)}"):
        return False
    return _TOO_LONG.search(words) is not None


def codes_in(body: Any) -> list[str]:
    """List the codes and types in an error's body, nested ones too."""
    if not isinstance(body, dict):
        return []
    own = [str(body[name]).lower() for name in ("code", "type") if isinstance(body.get(name), str)]
    return own + [code for name in ("error", "detail") for code in codes_in(body.get(name))]


def message_in(body: Any) -> str:
    """Return the message in an error's body, in whichever field servers put it; empty where there is none."""
    if isinstance(body, str):
        return body
    if isinstance(body, list):
        return "; ".join(filter(None, map(message_in, body)))
    if not isinstance(body, dict):
        return ""
    return next(filter(None, (message_in(body.get(name)) for name in ("message", "error", "detail", "msg", "reason"))), "")


def body_of(text: str) -> Any:
    """Return the JSON values that a text holds, or the text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def words_of(text: str) -> str:
    """Return what a server sent as words for a message: its message if it is JSON, in one line, cut where it is long."""
    text = message_in(body_of(text)) or text
    text = " ".join(join_surrogates(text).split())
    return text if len(text) <= _MOST_WORDS else f"{text[:_MOST_WORDS]}..."


def causes_of(error: BaseException) -> str:
    """Describe what caused an error, without doubles: a client says "Connection error." and its cause says why."""
    said: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        text = " ".join(str(cause).split()).rstrip(".") or type(cause).__name__
        if not any(text in other for other in said):
            said.append(text)
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return ": ".join(said)
