"""One prompt token by token: text, saliency, the pruner's scores, and the verdict on each token.

Scores and verdicts are the engine's own, read off a prefill.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.token_views.sources import Subject
from erecap.engine.prefill import PrefillResult, prefill
from erecap.models.loading import LoadedModel
from erecap.models.pruner import TokenPruner
from erecap.models.tokenization import TokenizedPrompt
from erecap.schedule import PruneSchedule, forced_stages
from erecap.selectors import LearnedSelector, Selector
from erecap.training.sequences import Float32

KEPT, GUARDED = -1, -2


@dataclass(frozen=True)
class Pruning:
    """The effect of a pruned prefill on one prompt.

    Attributes
    ----------
    schedule
        The stages and keep ratios.
    scores
        By layer, float32 ``(tokens,)``, NaN for tokens that did not reach it. A stage that drops nothing has no scores.
    verdicts
        int64 ``(tokens,)``: number of the stage that dropped the token, ``KEPT``, or ``GUARDED`` where no stage may drop it.
    """

    schedule: PruneSchedule
    scores: dict[int, Float32]
    verdicts: NDArray[np.int64]


@dataclass(frozen=True)
class TokenView:
    """One prompt token by token.

    Attributes
    ----------
    title
        In words, which prompt.
    texts
        What each token adds to the text.
    saliency
        By layer, float32 ``(tokens,)``, NaN for a token without.
    pruning
        What pruning does to it; ``None`` without a pruner.
    """

    title: str
    texts: tuple[str, ...]
    saliency: dict[int, Float32]
    pruning: Pruning | None = None


def view(loaded: LoadedModel, subject: Subject, pruner: TokenPruner | None, keep: float) -> TokenView:
    """Look at ``subject``; with a pruner, prune it at the pruner's stages, keeping the share ``keep`` (0..1) at each."""
    texts = token_texts(loaded.tokenizer, subject.prompt.input_ids.tolist())
    pruning = None if pruner is None else prune(loaded, subject.prompt, pruner, keep)
    return TokenView(subject.title, texts, subject.saliency, pruning)


def prune(loaded: LoadedModel, prompt: TokenizedPrompt, pruner: TokenPruner, keep: float) -> Pruning:
    """Prefill ``prompt`` at keep ratio ``keep`` (0..1) and read off what happened to its tokens."""
    schedule = PruneSchedule.after(pruner.stages, keep)
    selector = _Recording(LearnedSelector(pruner, schedule), len(prompt))
    result = prefill(loaded.model, prompt, schedule, selector)
    scores = {schedule.stages[stage].after_layer: values for stage, values in selector.scores.items()}
    return Pruning(schedule, scores, _verdicts(result, schedule, prompt))


def token_texts(tokenizer: Any, ids: Sequence[int]) -> tuple[str, ...]:
    """Find what each token adds to the text. Where several tokens make up one character, the last of them has it.

    Tokens are decoded behind another one, because some tokenizers leave out the space before the first.
    """
    known = {token: _decode(tokenizer, [ids[0], token])[len(_decode(tokenizer, ids[:1])) :] for token in set(ids)}
    texts, begin = [], 0
    for index, token in enumerate(ids):
        text = known[token] if begin == index else _decode(tokenizer, ids[begin : index + 1])
        unfinished = text.endswith("\N{REPLACEMENT CHARACTER}") and index - begin < 3 and index < len(ids) - 1
        texts.append("" if unfinished else text)
        begin = begin if unfinished else index + 1
    return tuple(texts)


def _decode(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


@dataclass
class _Recording:
    """A selector that records the scores of another by stage, for one prompt of ``length`` tokens."""

    selector: Selector
    length: int
    scores: dict[int, Float32] = field(default_factory=dict)

    def score(self, hidden: Tensor, positions: Tensor, stage_index: int, lengths: Tensor) -> Tensor:
        """Score with the other selector and record the result."""
        found = self.selector.score(hidden, positions, stage_index, lengths)
        row = torch.full((self.length,), torch.nan)
        row[positions[0].cpu()] = found[0].float().cpu()
        self.scores[stage_index] = row.numpy()
        return found


def _verdicts(result: PrefillResult, schedule: PruneSchedule, prompt: TokenizedPrompt) -> NDArray[np.int64]:
    guarded = forced_stages(schedule, prompt.protected) == len(schedule.stages)
    verdicts, alive = np.where(guarded, GUARDED, KEPT), np.arange(len(prompt))
    for stage, kept in enumerate(result.stages):
        survivors = kept.positions[0, : kept.counts[0]].cpu().numpy()
        verdicts[np.setdiff1d(alive, survivors)] = stage
        alive = survivors
    return verdicts.astype(np.int64)
