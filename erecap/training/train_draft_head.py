"""Training of a draft head (``erecap.models.draft_head``). The language model is frozen; the head learns to go on with its plans.

Each step runs whole episodes through the model, and takes the hidden state before each token of a plan. After the token that the
model writes from it, the head guesses the following ones, with the true tokens before each. The loss is the mean cross entropy over
these places.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from erecap.engine.differentiable import frozen
from erecap.models.architecture import decoder_parts
from erecap.models.causal_attention import attending_fast
from erecap.models.draft_head import DraftHead
from erecap.models.identity import identify
from erecap.training.batches import Batch, Batches
from erecap.training.config import TrainConfig
from erecap.training.early_stopping import EarlyStopping
from erecap.training.loop import Hooks, Metrics, MetricSums, TrainLoop, TrainRecord
from erecap.training.sequences import PLAN_WEIGHT, SequenceList, SequenceSet, TokenSequence, digest

DRAFT_HEAD_DIR = "draft_head"


@dataclass(frozen=True)
class Answers:
    """The plans of a batch, one per row, padded on the right.

    Attributes
    ----------
    ids
        Their tokens, int64 ``(plans, length)``.
    hidden
        The hidden states from which the model writes them, float ``(plans, length, hidden_size)``.
    inside
        Which tokens are no padding, bool ``(plans, length)``.
    """

    ids: Tensor
    hidden: Tensor
    inside: Tensor


def episodes_of(sequences: SequenceSet) -> SequenceList:
    """Return the sequences without their branches."""
    cut = [(one, one.episode_length) for one in map(sequences.__getitem__, range(len(sequences)))]
    return SequenceList([TokenSequence(one.input_ids[:n], one.weights[:n], one.turns[:n]) for one, n in cut])


@torch.no_grad()
def answers_of(model: PreTrainedModel, batch: Batch) -> Answers | None:
    """Run a batch of episodes, and cut out the plans to imitate. Return ``None`` where no plan has two tokens."""
    spans = [
        (row, first, end) for row, weights in enumerate(batch.weights.cpu()) for first, end in _runs(weights) if end - first > 1
    ]
    if not spans:
        return None
    with attending_fast(model.config, batch.input_ids.device):
        hidden = model.base_model(input_ids=batch.input_ids, use_cache=False).last_hidden_state
    longest = max(end - first for _, first, end in spans)
    ids = batch.input_ids.new_zeros(len(spans), longest)
    states, inside = hidden.new_zeros(len(spans), longest, hidden.shape[-1]), torch.zeros_like(ids, dtype=torch.bool)
    for plan, (row, first, end) in enumerate(spans):
        ids[plan, : end - first] = batch.input_ids[row, first:end]
        states[plan, : end - first] = hidden[row, first - 1 : end - 1]
        inside[plan, : end - first] = True
    return Answers(ids, states, inside)


def _runs(weights: Tensor) -> list[tuple[int, int]]:
    """Find the plans of a row: (first token, one past the last)."""
    marked = functional.pad((weights >= PLAN_WEIGHT).int(), (1, 1)).diff()
    firsts, ends = (marked == 1).nonzero().flatten().tolist(), (marked == -1).nonzero().flatten().tolist()
    return [(max(1, first), end) for first, end in zip(firsts, ends, strict=True)]


def draft_losses(model: PreTrainedModel, head: DraftHead, answers: Answers) -> tuple[Tensor, Metrics]:
    """Compute the loss of a head's guesses.

    Returns
    -------
    tuple
        The mean cross entropy over tokens and places, in nats, and (sum, count) of the metrics: ``right``, the share of the guesses
        that are right, of each place given the true tokens before; ``run``, how many in a row are right from a state on.
    """
    parts = decoder_parts(model)
    states, _ = head.read(parts.embed(answers.ids))
    losses, run, alive, right = list[Tensor](), answers.ids.new_zeros(()), None, list[Tensor]()
    for place in range(min(head.ahead, answers.ids.shape[1] - 1)):
        count = answers.ids.shape[1] - 1 - place
        inside, wanted = answers.inside[:, 1 + place :], answers.ids[:, 1 + place :]
        features = head(answers.hidden[:, :count], states[:, place : place + count], place)[inside]
        logits = parts.head(features.to(answers.hidden.dtype)).float()
        losses.append(functional.cross_entropy(logits, wanted[inside]))
        hits = torch.zeros_like(inside)
        hits[inside] = logits.argmax(-1) == wanted[inside]
        alive = hits if alive is None else alive[:, :count] & hits
        run, right = run + alive.sum(), [*right, hits.sum() / inside.sum().clamp_min(1)]
    total = torch.stack(losses).mean()
    begun = answers.inside[:, 1:].sum()
    return total, {"right": (torch.stack(right).mean(), 1), "run": (run / begun.clamp_min(1), 1)}


def train_draft_head(
    model: PreTrainedModel,
    head: DraftHead,
    batches: Batches,
    held_out: Batches | None,
    config: TrainConfig,
    out_dir: Path,
    hooks: Hooks,
) -> list[TrainRecord]:
    """Train ``head`` in place and save it to ``out_dir / "draft_head"``; with ``held_out`` the one of the lowest loss on it.

    The weights of ``model`` do not change. A run continues from the checkpoint in ``out_dir``.

    Returns
    -------
    list of TrainRecord
        The records of the log, with the metrics of ``draft_losses``; ``eval`` holds those of ``held_out``.

    Raises
    ------
    DraftHeadMismatchError
        For the head of another model.
    ValueError
        Where ``out_dir`` holds a run with other settings.
    """
    head.check_model(identify(model))
    stopping = EarlyStopping(lambda: head.save_pretrained(Path(out_dir) / DRAFT_HEAD_DIR), None)

    def step(batch: Batch) -> tuple[Tensor, Metrics]:
        answers = answers_of(model, batch)
        return (next(head.parameters()).sum() * 0.0, {}) if answers is None else draft_losses(model, head, answers)

    @torch.no_grad()
    def evaluate(judged: Batches) -> dict[str, float]:
        sums = MetricSums()
        for batch in judged.once():
            loss, metrics = step(batch.to(model.device))
            sums.add({**metrics, "loss": (loss, 1)} if metrics else {})
        return {"loss": 0.0, **sums.means()}

    if held_out is not None:
        hooks = stopping.hooks(hooks, lambda step: evaluate(held_out))
    settings = {"model": head.identity.checksum, "data": digest(batches.sequences), "width": head.width, "ahead": head.ahead}
    loop = TrainLoop(head, step, batches, config, Path(out_dir), hooks, {**settings, "training": config.record()})
    stopping.resume(loop.log.records)
    with frozen(model):
        records = loop.run()
    if stopping.best == math.inf:
        head.save_pretrained(Path(out_dir) / DRAFT_HEAD_DIR)
    return records
