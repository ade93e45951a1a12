"""Gradient scores: keep the tokens that the model's own answer depends on. An oracle, as an upper bound in ablations.

The score is the saliency that pruners are trained on, computed for the prompt at hand. Any other selector has to score before the
answer is known. This one is slow: for every prompt it runs an unpruned prefill, a greedy decode, and a forward and backward pass.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from erecap.distributed.tensor_parallel import ranks_of
from erecap.engine.decode import DecodeOptions, decode
from erecap.engine.differentiable import gradient_products, stage_hidden
from erecap.engine.prefill import prefill
from erecap.models.architecture import check_length, decoder_parts
from erecap.models.tokenization import TokenizedPrompt
from erecap.schedule import PruneSchedule
from erecap.selectors.base import SelectorContext


class GradientSelector:
    """A selector by ``|sum_d (dL / dh_i)_d * h_i,d|``, gradient x hidden state as in SDTP (arXiv 2504.04514).

    h_i is the residual stream that leaves the stage's layer at token i. L is the mean cross entropy of the unpruned model's greedy
    answer, end token included. The scores of all stages come from one unpruned forward, so earlier stages do not change them.

    Parameters
    ----------
    model
        The model to be pruned.
    schedule
        The stages at which tokens are scored.
    eos_ids
        Tokens that end an answer.
    answer_tokens
        Largest number of tokens of an answer.
    """

    def __init__(
        self, model: PreTrainedModel, schedule: PruneSchedule, eos_ids: frozenset[int] = frozenset(), answer_tokens: int = 24
    ) -> None:
        self._model, self._eos_ids, self._answer_tokens = model, eos_ids, answer_tokens
        self.stage_layers = tuple(stage.after_layer for stage in schedule.stages)
        self._scores: Tensor | None = None

    @classmethod
    def from_context(cls, context: SelectorContext) -> "GradientSelector":
        """Make the selector from the context's model and end tokens. Raise ``ValueError`` where it has no model."""
        if context.model is None:
            raise ValueError("the selector 'gradient' runs the model on the prompt and got no model: give one in the context")
        if ranks_of(context.model) > 1:
            raise ValueError(
                f"the selector 'gradient' needs gradients of the whole model, which is divided among {ranks_of(context.model)} "
                "ranks: use another selector, or one process"
            )
        return cls(context.model, context.schedule, context.eos_ids)

    def prepare(self, ids: Tensor, lengths: Sequence[int]) -> None:
        """Answer each prompt and compute its gradients (``PreparedSelector.prepare``). The host waits for every token."""
        rows = [self._saliency(row[:length].tolist()) for row, length in zip(ids, lengths, strict=True)]
        padded = pad_sequence(rows, batch_first=True)
        self._scores = pad(padded, (0, 0, 0, ids.shape[1] - padded.shape[1]))

    def score(self, hidden: Tensor, positions: Tensor, stage_index: int, lengths: Tensor) -> Tensor:
        """Return the scores that ``prepare`` computed (``Selector.score``). Raise ``ValueError`` for another batch."""
        if self._scores is None or len(self._scores) != len(positions):
            seen = 0 if self._scores is None else len(self._scores)
            raise ValueError(
                f"the selector 'gradient' has seen {seen} prompts and is to score {len(positions)}: call prepare(ids, lengths) "
                "with the whole prompts first, as prefill does"
            )
        return self._scores[..., stage_index].to(positions.device).gather(1, positions)

    def _saliency(self, prompt: list[int]) -> Tensor:
        """Compute the scores of one prompt, float32 ``(n, stages)``."""
        answer = self._answer(prompt)
        with torch.inference_mode(False), torch.enable_grad():
            parts = decoder_parts(self._model)
            ids = torch.tensor([[*prompt, *answer[:-1]]], device=parts.entry)
            hidden, final = stage_hidden(self._model, ids, self.stage_layers)
            logits = parts.head(final[0, len(prompt) - 1 :]).float()
            loss = cross_entropy(logits, torch.tensor(answer, device=logits.device))
            return gradient_products(loss, hidden)[:, 0, : len(prompt)].T.to(ids.device)

    def _answer(self, prompt: list[int]) -> list[int]:
        check_length(self._model.config, len(prompt), 1)
        room = self._model.config.max_position_embeddings - len(prompt)
        options = DecodeOptions(min(self._answer_tokens, room), eos_ids=self._eos_ids)
        start = prefill(self._model, TokenizedPrompt.from_ids(prompt))
        return [token for (token,) in decode(self._model, start, options) if token is not None]
