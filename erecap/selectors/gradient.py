"""Keep what the model's own answer hangs on: an oracle, for the upper row of an ablation.

The score is that of ``training.saliency``, computed on the prompt at hand, whose answer a selector in use cannot know. Slow: an
unpruned prefill, a greedy decode and a forward with its backward for every prompt.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from erecap.engine.differentiable import gradient_products, stage_hidden
from erecap.models.architecture import check_length, decoder_parts
from erecap.models.tokenization import TokenizedPrompt
from erecap.schedule.schedule import PruneSchedule
from erecap.selectors.base import SelectorContext


class GradientSelector:
    """The score is ``|sum_d (dL / dh_i)_d * h_i,d|``, gradient x hidden state as in SDTP (arXiv 2504.04514).

    h_i is the residual stream that leaves the stage's layer at token i, L the mean cross entropy of the UNPRUNED model's greedy
    answer, at most ``answer_tokens`` long and its end token included. Later stages too look scores up that the unpruned forward
    gave: what earlier stages dropped does not change them.
    """

    def __init__(
        self, model: PreTrainedModel, schedule: PruneSchedule, eos_ids: frozenset[int] = frozenset(), answer_tokens: int = 24
    ) -> None:
        self._model, self._eos_ids, self._answer_tokens = model, eos_ids, answer_tokens
        self._layers = [stage.after_layer for stage in schedule.stages]
        self._scores: Tensor | None = None

    @classmethod
    def from_context(cls, context: SelectorContext) -> "GradientSelector":
        """Reads the context's model and end tokens. Raises ``ValueError`` where it has no model."""
        if context.model is None:
            raise ValueError("the selector 'gradient' runs the model on the prompt and got no model: give one in the context")
        return cls(context.model, context.schedule, context.eos_ids)

    def prepare(self, ids: Tensor, lengths: Sequence[int]) -> None:
        """See ``PreparedSelector.prepare``. Row by row; waits for the device at every token of an answer."""
        rows = [self._saliency(row[:length].tolist()) for row, length in zip(ids, lengths, strict=True)]
        self._scores = pad_sequence(rows, batch_first=True)

    def score(self, hidden: Tensor, positions: Tensor, stage_index: int, lengths: Tensor) -> Tensor:
        """See ``Selector.score``. Raises ``ValueError`` for a batch that ``prepare`` has not seen."""
        if self._scores is None or len(self._scores) != len(positions):
            seen = 0 if self._scores is None else len(self._scores)
            raise ValueError(
                f"the selector 'gradient' has seen {seen} prompts and is to score {len(positions)}: call prepare(ids, lengths) "
                "with the whole prompts first, as prefill does"
            )
        return self._scores[..., stage_index].gather(1, positions)

    def _saliency(self, prompt: list[int]) -> Tensor:
        """Of every token of one prompt at every stage: float32 ``(n, stages)``."""
        answer = self._answer(prompt)
        with torch.inference_mode(False), torch.enable_grad():
            ids = torch.tensor([[*prompt, *answer[:-1]]], device=self._model.device)
            hidden, final = stage_hidden(self._model, ids, self._layers)
            logits = decoder_parts(self._model).head(final[0, len(prompt) - 1 :]).float()
            loss = cross_entropy(logits, torch.tensor(answer, device=logits.device))
            return gradient_products(loss, hidden)[:, 0, : len(prompt)].T.to(ids.device)

    def _answer(self, prompt: list[int]) -> list[int]:
        from erecap.engine.decode import DecodeOptions, decode  # these two import the selectors' protocol from this package
        from erecap.engine.prefill import prefill

        check_length(self._model.config, len(prompt), 1)
        room = self._model.config.max_position_embeddings - len(prompt)
        options = DecodeOptions(min(self._answer_tokens, room), eos_ids=self._eos_ids)
        start = prefill(self._model, TokenizedPrompt.from_ids(prompt))
        return [token for (token,) in decode(self._model, start, options) if token is not None]
