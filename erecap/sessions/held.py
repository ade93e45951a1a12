"""The tokens that a session holds: their ids, messages, flags and verdicts, and the cache."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PretrainedConfig

from erecap.models.tokenization import TokenizedPrompt
from erecap.schedule import PruneSchedule
from erecap.sessions.cache import PrunedCache
from erecap.sessions.reuse import common_prefix, first_marked, whole_segments
from erecap.sessions.verdicts import Judging, Verdicts

_NEVER = sys.maxsize


class HeldTokens:
    """The tokens of one agent. ``erecap.sessions.session`` says what the terms mean.

    Parameters
    ----------
    config
        The model's config.
    schedule
        Where tokens are dropped and how many.
    device
        Device of the scores.
    """

    def __init__(self, config: PretrainedConfig, schedule: PruneSchedule, device: torch.device) -> None:
        self._schedule = schedule
        self.cache = PrunedCache(config)
        self.ids = np.zeros(0, np.int64)
        self._protected = np.zeros(0, np.bool_)
        self._segment_ends: tuple[int, ...] = ()
        self.verdicts = Verdicts.none(len(schedule.stages), device)
        self._rerun_from = _NEVER
        self._sound = _NEVER

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def _stages_before(self) -> tuple[int, ...]:
        """Number of stages before each layer."""
        layers = self._schedule.layers
        return tuple(sum(after < layer for after in layers) for layer in range(len(self.cache.layer_tokens)))

    def guarded(self, protected: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Add the schedule's head to the protected tokens of a prompt, bool ``(n,)``."""
        guarded = protected.copy()
        guarded[: self._schedule.head] = True
        return guarded

    def restore(self) -> bool:
        """Take out what a call that broke off left behind. Return whether that was possible."""
        if not self.cache.restore():
            return False
        self.crop(min(self._sound, len(self.ids), len(self._protected), len(self.verdicts.survived)))
        self._sound = _NEVER
        return True

    def reusable(self, prompt: TokenizedPrompt) -> int:
        """Count the first tokens of ``prompt`` that need not be run."""
        common = common_prefix(self.ids, prompt.input_ids)
        lacking = self.cache.lacking(common) & prompt.protected[:common]
        tokens = min(common, len(prompt) - 1, self._rerun_from, first_marked(lacking, common))
        if self._schedule.rule == "threshold" or not self._schedule.stages:
            return tokens
        shared = whole_segments(self._segment_ends, prompt.segment_ends, tokens)
        return tokens if shared >= self.verdicts.settled else shared

    def crop(self, tokens: int) -> None:
        """Take out the tokens from ``tokens`` on."""
        self.cache.crop(tokens)
        self.ids, self._protected = self.ids[:tokens], self._protected[:tokens]
        self.verdicts = self.verdicts.crop(tokens)
        self._segment_ends = tuple(end for end in self._segment_ends if end <= tokens)
        if self._rerun_from >= tokens:
            self._rerun_from = _NEVER

    def compact(self, protected: NDArray[np.bool_]) -> None:
        """Set the flags of the first tokens, bool ``(n,)``, and drop from each layer the unprotected that do not survive to it.

        Tokens without a verdict, and those from the first one that is to be run again, stay.
        """
        self._protected = np.concatenate([protected, self._protected[len(protected) :]])
        stay = self._protected.copy()
        stay[self.verdicts.settled :] = True
        stay[self._rerun_from :] = True
        for layer, stages in enumerate(self._stages_before):
            if stages:
                self.cache.keep(layer, stay | (self.verdicts.survived >= stages))

    def judging(self, prompt: TokenizedPrompt) -> Judging:
        """Begin a run of the tokens of ``prompt`` that are not held.

        Where tokens are dropped on the way, those without a verdict are not sure to be whole if the run breaks off.
        """
        until = max(_complete(prompt), self.verdicts.settled)
        forced = self.guarded(prompt.protected) | self._tail(prompt)
        judging = Judging(self._schedule, self.verdicts, prompt.segment_ends, forced, until)
        self._sound = self.verdicts.settled if judging.at_once else len(self)
        return judging

    def take(self, prompt: TokenizedPrompt, verdicts: Verdicts, ran: list[NDArray[np.int64]]) -> None:
        """Take in the tokens of ``prompt`` that were run, with the positions that each layer appended."""
        for layer, positions in enumerate(ran):
            self.cache.note(layer, positions)
        self.ids, self._protected = prompt.input_ids.copy(), self.guarded(prompt.protected)
        self._segment_ends, self.verdicts = prompt.segment_ends, verdicts
        for_tail_alone = self._tail(prompt) & ~self._protected & (verdicts.survived < len(self._schedule.stages))
        self._rerun_from = first_marked(for_tail_alone, _NEVER)
        self._sound = _NEVER

    def append(self, token: int, scores: Tensor) -> None:
        """Take in a token of the answer that has gone through all layers, with its scores, float32 ``(stages, 1)``."""
        self.verdicts = self.verdicts.append(scores)
        self._protected = np.append(self._protected, True)
        self.cache.note_everywhere(len(self.ids))
        self.ids = np.append(self.ids, token)

    def take_answer(self, tokens: Sequence[int], scores: Tensor, states: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Take in tokens of the answer that were run elsewhere.

        Parameters
        ----------
        tokens
            The tokens.
        scores
            Their scores, float32 ``(stages, tokens)``.
        states
            Keys and values of them in each layer, each ``(1, kv_heads, tokens, head_dim)``.
        """
        for layer, (keys, values) in enumerate(states):
            self.cache.append(layer, keys, values)
        for column, token in enumerate(tokens):
            self.append(token, scores[:, column : column + 1])

    def state(self) -> dict[str, Tensor]:
        """Return all that is held as tensors by name, for a file. Nothing may be left of a call that broke off."""
        return self.cache.state() | {
            "ids": torch.from_numpy(self.ids),
            "protected": torch.from_numpy(self._protected),
            "segment_ends": torch.tensor(self._segment_ends, dtype=torch.int64),
            "survived": torch.from_numpy(self.verdicts.survived),
            "scores": self.verdicts.scores,
            "settled": torch.tensor([self.verdicts.settled]),
            "rerun_from": torch.tensor([self._rerun_from]),
        }

    def fill(self, state: Mapping[str, Tensor], places: Sequence[torch.device]) -> None:
        """Take in what ``state`` returned, while nothing is held, each layer on its device."""
        self.cache.fill(state, places)
        self.ids, self._protected = state["ids"].numpy(), state["protected"].numpy()
        self._segment_ends = tuple(state["segment_ends"].tolist())
        scores = state["scores"].to(self.verdicts.scores.device)
        self.verdicts = Verdicts(state["survived"].numpy(), int(state["settled"]), scores)
        self._rerun_from = int(state["rerun_from"])

    def _tail(self, prompt: TokenizedPrompt) -> NDArray[np.bool_]:
        """Mark the guarded last tokens, bool ``(n,)``."""
        return np.arange(len(prompt)) >= len(prompt) - self._schedule.tail_min


def _complete(prompt: TokenizedPrompt) -> int:
    """Return the end of the last complete message. Tokens behind it that are not all protected are complete as well."""
    end = prompt.segment_ends[-1] if prompt.segment_ends else 0
    return end if prompt.protected[end:].all() else len(prompt)
