"""The place where an answer begins: the prompt, a draft that was run behind it, and the logits behind both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from erecap.models.tokenization import TokenizedPrompt


@dataclass(frozen=True)
class AnswerStart:
    """Where an answer begins.

    Attributes
    ----------
    prompt
        The prompt.
    draft
        Tokens that were run behind it.
    logits
        Logits of the next token after the prompt, and after each token of the draft, float32 ``(1 + draft, vocab)``.
    hidden
        Hidden states after the final norm, of which the logits are made, ``(1 + draft, hidden_size)``; ``None`` in a start that was
        read from a file.
    """

    prompt: TokenizedPrompt
    draft: tuple[int, ...]
    logits: Tensor
    hidden: Tensor | None = None

    def without_draft(self) -> "AnswerStart":
        """Return the start of the same answer without its draft."""
        return AnswerStart(self.prompt, (), self.logits[:1], None if self.hidden is None else self.hidden[:1])

    def state(self) -> dict[str, Tensor]:
        """Return it as tensors by name, for a file."""
        return {
            "start.ids": torch.tensor(self.prompt.input_ids),
            "start.protected": torch.tensor(self.prompt.protected),
            "start.segment_ends": torch.tensor(self.prompt.segment_ends, dtype=torch.int64),
            "start.draft": torch.tensor(self.draft, dtype=torch.int64),
            "start.logits": self.logits,
        }

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor], device: torch.device) -> "AnswerStart | None":
        """Make it from what ``state`` returned, with the logits on ``device``; ``None`` where there is none."""
        if "start.ids" not in state:
            return None
        ids, flags = state["start.ids"].numpy(), state["start.protected"].numpy()
        prompt = TokenizedPrompt(ids, flags, tuple(state["start.segment_ends"].tolist()))
        return cls(prompt, tuple(state["start.draft"].tolist()), state["start.logits"].to(device))


def followed_by(prompt: TokenizedPrompt, answer: Sequence[int]) -> TokenizedPrompt:
    """Return a prompt with the first tokens of its answer behind it, which are protected as the header is."""
    more = np.asarray(answer, np.int64)
    ids, flags = np.concatenate([prompt.input_ids, more]), np.concatenate([prompt.protected, np.ones(len(more), np.bool_)])
    return TokenizedPrompt(ids, flags, prompt.segment_ends)
