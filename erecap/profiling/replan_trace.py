"""A recorded episode as tokens: what was read at each replan, and what was answered. Measurements replay it on any model.

An episode's history only grows, so each prompt is the beginning of the last one, which is stored once. Flags and answers are stored
by replan. ``erecap trace-replans`` writes a trace from a run directory.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from erecap.models.files import FileError, fill_atomically, read_json_object
from erecap.models.loading import bundled_planner_dir
from erecap.models.tokenization import TokenizedPrompt

VERSION = 1


def bundled_trace() -> Path:
    """Return the path of the trace that ships: an episode of ``household-replan``."""
    return bundled_planner_dir().parent / "replans.json"


@dataclass(frozen=True)
class PromptPart:
    """The beginning of an episode's tokens that was a prompt.

    Attributes
    ----------
    tokens
        Its number of tokens.
    messages
        Its number of messages; tokens behind the last one are the answer's header.
    protected
        Spans of its protected tokens: first, and one past the last.
    """

    tokens: int
    messages: int
    protected: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class TracedReplan:
    """One replan.

    Attributes
    ----------
    observed
        What the agent knew before its latest observation, which a session can take in while the agent acts; ``None`` at the first
        replan.
    prompt
        The prompt.
    draft
        Tokens of what was left of the plan before.
    answer
        Tokens of the answer, the end token included.
    """

    observed: PromptPart | None
    prompt: PromptPart
    draft: tuple[int, ...]
    answer: tuple[int, ...]


@dataclass(frozen=True)
class ReplanTrace:
    """The replans of one episode.

    Attributes
    ----------
    source
        What was recorded, in words.
    ids
        Tokens of the last prompt.
    ends
        Index one past the last token of each message.
    line_breaks
        Tokens that end a line.
    end_tokens
        Tokens that end an answer.
    replans
        The replans, oldest first.
    """

    source: str
    ids: tuple[int, ...]
    ends: tuple[int, ...]
    line_breaks: tuple[int, ...]
    end_tokens: tuple[int, ...]
    replans: tuple[TracedReplan, ...]

    def save(self, path: Path) -> None:
        """Write the trace to ``path``, atomically."""
        text = json.dumps({"version": VERSION, **asdict(self)}, separators=(",", ":")) + "\n"
        fill_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))

    @classmethod
    def load(cls, path: Path) -> "ReplanTrace":
        """Read a trace. Raise ``FileError`` for a file that is none."""
        remedy = "make a trace of replans with `erecap trace-replans --data RUN --out FILE`"
        fields = read_json_object(path, remedy)
        try:
            if fields.pop("version") != VERSION:
                raise ValueError("another version")
            replans = tuple(_replan(one) for one in fields.pop("replans"))
            source = str(fields.pop("source"))
            return cls(source, replans=replans, **{name: tuple(map(int, values)) for name, values in fields.items()}).checked()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FileError(f"{path} is no trace of replans ({error}): {remedy}") from error

    def checked(self) -> "ReplanTrace":
        """Return the trace. Raise ``ValueError`` where its parts do not fit together."""
        for replan in self.replans:
            for part in (replan.prompt, *((replan.observed,) if replan.observed else ())):
                spans = [place for span in part.protected for place in span]
                if not 0 < part.tokens <= len(self.ids) or part.messages > len(self.ends) or spans != sorted(spans):
                    raise ValueError("a prompt is not within the tokens")
                if spans and not 0 <= spans[0] <= spans[-1] <= part.tokens:
                    raise ValueError("protected tokens are not within their prompt")
            if not replan.answer:
                raise ValueError("a replan has no answer")
        if not self.replans:
            raise ValueError("there are no replans")
        return self

    def prompt(self, part: PromptPart, filler: NDArray[np.int64] | None = None) -> TokenizedPrompt:
        """Make a prompt, with ``filler``, unprotected tokens int64 ``(n,)``, as a message behind the first two.

        The first two messages are the system text and the task.
        """
        ids, flags = np.array(self.ids[: part.tokens], np.int64), np.zeros(part.tokens, np.bool_)
        for first, last in part.protected:
            flags[first:last] = True
        ends = self.ends[: part.messages]
        if filler is None or not len(filler):
            return TokenizedPrompt(ids, flags, ends)
        place = self.ends[min(2, len(self.ends)) - 1]
        moved = tuple(end if end <= place else end + len(filler) for end in ends)
        return TokenizedPrompt(
            np.insert(ids, place, filler),
            np.insert(flags, place, np.zeros(len(filler), np.bool_)),
            tuple(sorted((*moved, place + len(filler)))),
        )

    def window(self, length: int, replans: int) -> tuple[Sequence[TracedReplan], int]:
        """Choose consecutive replans whose prompts are about ``length`` tokens long.

        Parameters
        ----------
        length
            Tokens of the prompt of the last one.
        replans
            Number of replans.

        Returns
        -------
        tuple
            The replans, fewer where there are fewer, and the number of tokens of filler that make the last prompt as long: 0 where
            the episode grew beyond ``length``.
        """
        ends = range(min(replans, len(self.replans)), len(self.replans) + 1)
        last = min(ends, key=lambda end: abs(self.replans[end - 1].prompt.tokens - length))
        return self.replans[max(0, last - replans) : last], max(0, length - self.replans[last - 1].prompt.tokens)


def spans_of(flags: NDArray[np.bool_]) -> tuple[tuple[int, int], ...]:
    """Return the spans of true flags, bool ``(n,)``: first, and one past the last."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], flags.astype(np.int8), [0]))))
    return tuple((int(first), int(last)) for first, last in edges.reshape(-1, 2))


def _replan(fields: dict[str, object]) -> TracedReplan:
    observed = fields["observed"]
    return TracedReplan(
        None if observed is None else _part(observed),
        _part(fields["prompt"]),
        tuple(map(int, _list(fields["draft"]))),
        tuple(map(int, _list(fields["answer"]))),
    )


def _part(fields: object) -> PromptPart:
    if not isinstance(fields, dict):
        raise TypeError("a prompt is no object")
    spans = tuple((int(first), int(last)) for first, last in fields["protected"])
    return PromptPart(int(fields["tokens"]), int(fields["messages"]), spans)


def _list(value: object) -> list[int]:
    if not isinstance(value, list):
        raise TypeError("tokens are no list")
    return value
