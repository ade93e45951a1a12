"""One prompt token by token: text, saliency, the pruner's scores, and the verdict on each token.

Scores and verdicts come from a prefill of the engine. A verdict says which stage dropped the token, if any.
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
        Scores by layer, float32 ``(tokens,)``, NaN for tokens that did not reach it. A stage that drops nothing has no scores.
    verdicts
        Number of the stage that dropped the token, ``KEPT``, or ``GUARDED`` if no stage may drop it, int64 ``(tokens,)``.
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
        The prompt, in words.
    texts
        Text of each token.
    saliency
        Saliency by layer, float32 ``(tokens,)``, NaN for a token without.
    pruning
        Scores and verdicts; ``None`` without a pruner.
    """

    title: str
    texts: tuple[str, ...]
    saliency: dict[int, Float32]
    pruning: Pruning | None = None


def view(loaded: LoadedModel, subject: Subject, pruner: TokenPruner | None, keep: float) -> TokenView:
    """Make the view of ``subject``. With a pruner, prune it at the pruner's stages with keep ratio ``keep`` (0..1)."""
    texts = token_texts(loaded.tokenizer, subject.prompt.input_ids.tolist())
    pruning = None if pruner is None else prune(loaded, subject.prompt, pruner, keep)
    return TokenView(subject.title, texts, subject.saliency, pruning)


def prune(loaded: LoadedModel, prompt: TokenizedPrompt, pruner: TokenPruner, keep: float) -> Pruning:
    """Prefill ``prompt`` at keep ratio ``keep`` (0..1), and return scores and verdicts of its tokens."""
    schedule = PruneSchedule.after(pruner.stages, keep)
    selector = _Recording(LearnedSelector(pruner, schedule), len(prompt))
    result = prefill(loaded.model, prompt, schedule, selector)
    scores = {schedule.stages[stage].after_layer: values for stage, values in selector.scores.items()}
    return Pruning(schedule, scores, _verdicts(result, schedule, prompt))


def token_texts(tokenizer: Any, ids: Sequence[int]) -> tuple[str, ...]:
    """Return the text of each token. A character that is made of several tokens belongs to the last of them.

    Tokens are decoded after another token, because some tokenizers drop the space before the first token.
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
    """A selector that records the scores of another selector by stage, for one prompt of ``length`` tokens."""

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
