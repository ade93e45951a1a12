"""Saliency: which tokens of an episode mattered to the plans that came after them, from the unpruned, frozen model.

For a stage after layer l and a replan t, with L_t the mean cross entropy of plan t's tokens and h_i the residual stream that leaves
layer l at token i:

    s_i = mean over sampled replans t later than token i's turn of | sum_d (dL_t / dh_i)_d * h_i,d |

This is the gradient x hidden state of the seed and of SDTP (arXiv 2504.04514), |x . dT/dx|, taken per replan: in replan t the
engine prunes what is older than the latest observation, so only those tokens are credited, and a plan's own tokens are not credited
for predicting themselves. Tokens that no sampled replan follows have no saliency (NaN), as have protected tokens and padding.
"""

import json
from collections.abc import Callable
from collections.abc import Sequence as SequenceABC
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import Tensor
from transformers import PreTrainedModel

from erecap.identity import ModelIdentity, identify
from erecap.training.checkpoint import differences, write_atomically
from erecap.training.data import NO_REPLAN, PLAN_WEIGHT, Batch, SequenceSet, collate, digest, later_plans
from erecap.training.frozen import frozen, stage_hidden
from erecap.training.loss import weighted_loss

FORMAT = "erecap-saliency-2"
LOSS = "cross entropy of plan tokens, mean per replan"

Float32 = npt.NDArray[np.float32]


def saliency(model: PreTrainedModel, batch: Batch, stages: SequenceABC[int], replans: int = 4, seed: int = 0) -> Tensor:
    """Saliency of every token of ``batch`` at each stage: float32 [stages, rows, length] on the CPU, NaN where there is none.

    ``replans`` replans are sampled per row (the last one always among them), seeded by the row's index in its set. Rows are
    independent of one another and of padding. Raises ``ValueError`` for a stage that is not a layer of the model.
    """
    total = torch.zeros(len(stages), *batch.input_ids.shape)
    count = torch.zeros(batch.input_ids.shape)
    with frozen(model):
        hidden, final = stage_hidden(model, batch.input_ids, stages)
        for chosen in _sample_replans(batch, replans, seed):
            gradients = torch.autograd.grad(_replan_loss(model, final, batch, chosen), hidden, retain_graph=True)
            scored = ((batch.turns >= 0) & (batch.turns < chosen[:, None])).cpu()
            products = [(g * h).sum(-1).abs().detach() for g, h in zip(gradients, hidden, strict=True)]
            total += torch.stack(products).float().cpu() * scored
            count += scored
    return torch.where(count > 0, total / count.clamp_min(1), torch.nan)


def _sample_replans(batch: Batch, replans: int, seed: int) -> list[Tensor]:
    """Per pass one replan per row, int64 [rows], from turn 1 on and with plan targets; ``NO_REPLAN`` where a row has no more."""
    picks = []
    for turns, targets, index in zip(batch.turns, later_plans(batch), batch.indices, strict=True):
        later = torch.unique(turns[targets]).cpu().numpy()
        rng = np.random.default_rng([seed, index])
        earlier = rng.permutation(later[:-1])[: replans - 1]
        picks.append([*later[-1:].tolist(), *earlier.tolist()])
    passes = max(len(row) for row in picks)
    padded = [[*row, *[NO_REPLAN] * (passes - len(row))] for row in picks]
    return [torch.tensor([row[k] for row in padded], device=batch.turns.device) for k in range(passes)]


def _replan_loss(model: PreTrainedModel, final: Tensor, batch: Batch, chosen: Tensor) -> Tensor:
    """Sum over rows of the mean cross entropy of the chosen replan's plan: a sum, so that rows do not weigh on one another."""
    wanted = (batch.turns == chosen[:, None]) & (batch.weights >= PLAN_WEIGHT)
    weights = wanted / wanted.sum(1, keepdim=True).clamp_min(1)
    # weighted_loss divides by the sum of weights, which is the number of rows that have a replan
    shares = replace(batch, weights=weights)
    return weighted_loss(final, model.get_output_embeddings().weight, shares).loss * weights.sum()  # type: ignore[no-untyped-call]


def collect_saliency(
    model: PreTrainedModel,
    sequences: SequenceSet,
    stages: SequenceABC[int],
    out_dir: Path,
    replans: int = 4,
    seed: int = 0,
    shard_size: int = 64,
    on_shard: Callable[[int, int], None] | None = None,
    model_name: str | None = None,
) -> "SaliencySet":
    """Compute the saliency of ``sequences``, one by one, into safetensors shards under ``out_dir``.

    Each shard holds ``saliency`` float32 [stages, tokens], ``offsets`` int64 and ``ids`` int64 (numbers in the set); its metadata
    names the model's identity, the stages and the loss. Shards that are there are not made again, so that a killed run goes on;
    they must match. ``on_shard(done, of)`` counts sequences. Raises ``ValueError`` for shards of another model, stages or setting,
    and where no sequence has a replan after its first, so that nothing has saliency.
    """
    identity = identify(model, model_name)
    metadata = _metadata(identity, stages, replans, seed, shard_size, sequences)
    for first in range(0, len(sequences), shard_size):
        ids = range(first, min(first + shard_size, len(sequences)))
        path = Path(out_dir) / f"saliency-{first // shard_size:05d}.safetensors"
        if path.is_file():
            _check_metadata(path, metadata)
        else:
            _write_shard(path, ids, [_one(model, sequences, i, stages, replans, seed) for i in ids], metadata)
        if on_shard is not None:
            on_shard(ids.stop, len(sequences))
    return SaliencySet(Path(out_dir), identity)


def _one(model: PreTrainedModel, sequences: SequenceSet, index: int, stages: SequenceABC[int], replans: int, seed: int) -> Float32:
    batch = collate([sequences[index]], [index]).to(model.device)
    result: Float32 = saliency(model, batch, stages, replans, seed)[:, 0].numpy()
    return result


def _metadata(
    identity: ModelIdentity, stages: SequenceABC[int], replans: int, seed: int, shard_size: int, sequences: SequenceSet
) -> dict[str, str]:
    settings = {"replans": replans, "seed": seed, "shard_size": shard_size, "sequences": len(sequences)}
    model = asdict(identity) | {"name": ""}
    described = {"format": FORMAT, "loss": LOSS, "model": model, "stages": list(stages), "settings": settings}
    described["data"] = digest(sequences)
    return {key: json.dumps(value) for key, value in described.items()}


def _check_metadata(path: Path, wanted: dict[str, str]) -> None:
    both = differences(safe_open(path, framework="numpy").metadata(), wanted)  # type: ignore[no-untyped-call]
    if both:
        raise ValueError(f"{path} is of another run ({both}): use another directory, or delete it")


def _write_shard(path: Path, ids: range, values: list[Float32], metadata: dict[str, str]) -> None:
    tensors: dict[str, npt.NDArray[Any]] = {
        "saliency": np.ascontiguousarray(np.concatenate(values, axis=1)),
        "offsets": np.cumsum([0, *(v.shape[1] for v in values)]).astype(np.int64),
        "ids": np.array(ids, dtype=np.int64),
    }
    write_atomically(path, lambda partial: save_file(tensors, partial, metadata=metadata))


class SaliencySet:
    """Collected saliency in memory. Raises ``ValueError`` for a directory without shards, or one made with another model."""

    def __init__(self, directory: Path, model: ModelIdentity) -> None:
        paths = sorted(Path(directory).glob("saliency-*.safetensors"))
        if not paths:
            raise ValueError(f"{directory} holds no saliency shards: run collect_saliency first")
        self._rows: dict[int, Float32] = {}
        for path in paths:
            self._read(path, model)
        if all(np.isnan(row).all() for row in self._rows.values()):
            raise ValueError("no token has saliency: give episodes with at least two replans, the later of which have plan targets")

    def __getitem__(self, index: int) -> Float32:
        """float32 [stages, tokens] of sequence ``index``."""
        return self._rows[index]

    def __len__(self) -> int:
        return len(self._rows)

    def _read(self, path: Path, model: ModelIdentity) -> None:
        file = safe_open(path, framework="numpy")
        metadata = {key: json.loads(value) for key, value in file.metadata().items()}  # type: ignore[no-untyped-call]
        saved = ModelIdentity(**metadata["model"])
        if metadata["format"] != FORMAT or not saved.matches(model):
            raise ValueError(f"{path} is of {saved.describe()}, the model is {model.describe()}: collect saliency for this model")
        self.stages, self.data = tuple(metadata["stages"]), metadata["data"]
        values, offsets, ids = (file.get_tensor(name) for name in ("saliency", "offsets", "ids"))  # type: ignore[no-untyped-call]
        for row, index in enumerate(ids.tolist()):
            self._rows[index] = values[:, offsets[row] : offsets[row + 1]]
