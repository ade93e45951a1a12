"""Drafts that a trained head guesses from the model's last hidden state (``erecap.models.draft_head``)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from erecap.models.architecture import DecoderParts
from erecap.models.draft_head import DraftHead

LEAST_CHANCE = 0.3
"""Probability below which a guess ends the draft."""


class HeadDraft:
    """A draft of the tokens that a head guesses, one after the other.

    Parameters
    ----------
    head
        The head, on the device of the model's output matrix, in float32.
    parts
        The model's modules.
    """

    def __init__(self, head: DraftHead, parts: DecoderParts) -> None:
        self._head, self._parts = head, parts
        self._hidden: Tensor | None = None
        self._state: Tensor | None = None
        self._read: list[int] = []

    def saw(self, hidden: Tensor) -> None:
        """Take the hidden state from which the model wrote the answer's last token, float ``(hidden_size,)``."""
        self._hidden = hidden

    @torch.inference_mode()
    def propose(self, answer: Sequence[int], most: int) -> list[int]:
        """Propose the tokens that the head guesses behind the last one (``Drafter``); none before the first token."""
        if self._hidden is None or not answer:
            return []
        state, found = self._state_behind(list(answer)), list[int]()
        for place in range(min(self._head.ahead, most)):
            chance, token = self._guess(self._hidden, state, place)
            if chance < LEAST_CHANCE:
                break
            found.append(token)
            state = self._take([token], state)
        return found

    def _state_behind(self, answer: list[int]) -> Tensor:
        """Read the tokens that are new; all of them where the answer goes on otherwise than it was read."""
        if self._state is None or answer[: len(self._read)] != self._read:
            self._state, self._read = None, []
        if self._state is None or len(answer) > len(self._read):
            self._state = self._take(answer[len(self._read) :], self._state)
        self._read = answer
        return self._state

    def _take(self, tokens: Sequence[int], state: Tensor | None) -> Tensor:
        """Read tokens of the answer; return the state behind them, float32 ``(1, 1, width)``."""
        ids = torch.tensor(tokens, device=self._parts.entry)[None]
        embeddings = self._parts.embed(ids).to(self._head.norm.weight.device)
        return self._head.read(embeddings, state)[1]

    def _guess(self, hidden: Tensor, state: Tensor, place: int) -> tuple[float, int]:
        """Guess one token: (its probability, the token). Ranks of a divided model guess alike."""
        features = self._head(hidden.to(state.device), state[0, 0], place)
        chances = self._parts.head(features.to(hidden.dtype)).float().softmax(-1)
        chance, token = self._parts.agree(torch.stack([value.double() for value in chances.max(-1)])).tolist()
        return chance, int(token)
