"""Thresholds for the rule ``threshold``: how they are fitted to recorded prompts, and their file beside the pruner's.

A threshold stands for a keep ratio only together with the scores it was fitted to, so the file names the pruner's weights, and the
thresholds of one fit belong together: each was fitted behind the stages before it. Does not know where prompts come from.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from erecap.engine.layout import lay_out
from erecap.engine.prefill import enter, run_layer
from erecap.engine.rules import forced_now
from erecap.engine.selection import above, places
from erecap.engine.stream import Survivors
from erecap.models.architecture import DecoderParts, decoder_parts
from erecap.models.files import fill_atomically
from erecap.models.masks import attention_mask
from erecap.models.pruner import WEIGHTS_FILE
from erecap.models.tokenization import TokenizedPrompt
from erecap.schedule.schedule import Guards, PruneSchedule, PruneStage, stage_counts
from erecap.selectors.base import PreparedSelector, Selector

CALIBRATION_FILE = "calibration.json"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Fit:
    """The stages of a schedule with their thresholds, and what they were fitted to: so many prompts, their tokens, in words."""

    stages: tuple[PruneStage, ...]
    prompts: int
    tokens: int
    data: str

    def fits(self, schedule: PruneSchedule) -> bool:
        """Whether this is of the layers and keep ratios of ``schedule``."""
        return _plan(self.stages) == _plan(schedule.stages)


@dataclass(frozen=True)
class Calibration:
    """The thresholds of one pruner; ``pruner`` is the checksum of its weights."""

    pruner: str
    fits: tuple[Fit, ...] = ()

    def taus(self, schedule: PruneSchedule) -> tuple[float, ...]:
        """A threshold for each stage of ``schedule``. Raises ``ValueError`` where none were fitted to its layers and keeps."""
        for fit in self.fits:
            if fit.fits(schedule):
                return tuple(stage.tau for stage in fit.stages if stage.tau is not None)
        there = "; ".join(_describe(fit.stages) for fit in self.fits) or "none"
        raise ValueError(
            f"the pruner's calibration has no thresholds for {_describe(schedule.stages)} (there are: {there}): fit them with "
            f"`erecap calibrate {_options(schedule.stages)}`"
        )

    def save(self, directory: Path | str) -> None:
        """Write the file into the pruner's ``directory``, whole or not at all."""
        text = json.dumps({"format_version": FORMAT_VERSION, **asdict(self)}, indent=2) + "\n"
        fill_atomically(Path(directory) / CALIBRATION_FILE, lambda partial: partial.write_text(text, encoding="utf-8"))


def read_calibration(directory: Path | str) -> Calibration:
    """What was fitted for the pruner in ``directory``.

    Raises ``ValueError`` where there is none, where it is of another format, or where the pruner was replaced since.
    """
    path = Path(directory) / CALIBRATION_FILE
    if not path.is_file():
        raise ValueError(f"the pruner in {directory} has no {CALIBRATION_FILE}: fit thresholds for it with `erecap calibrate`")
    saved = json.loads(path.read_text(encoding="utf-8"))
    if saved.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {saved.get('format_version')}, this erecap reads {FORMAT_VERSION}: fit the thresholds "
            "again with `erecap calibrate`"
        )
    here = weights_checksum(directory)
    if saved["pruner"] != here:
        raise ValueError(
            f"{path} was fitted to the scores of another pruner (checksum {saved['pruner']}) than the one beside it ({here}): "
            "fit the thresholds again with `erecap calibrate`"
        )
    return Calibration(here, tuple(_fit(**fields) for fields in saved["fits"]))


def add_fits(directory: Path | str, fits: Sequence[Fit]) -> Calibration:
    """Save ``fits`` beside the pruner in ``directory``, and return all that are there now.

    Those of the same layers and keep ratios are replaced, the others stay, unless they are of a pruner that was there before.
    Raises ``ValueError`` for a file of another format.
    """
    path, here = Path(directory) / CALIBRATION_FILE, weights_checksum(directory)
    stale = not path.is_file() or json.loads(path.read_text(encoding="utf-8")).get("pruner") != here
    old = () if stale else read_calibration(directory).fits
    new = {_plan(fit.stages) for fit in fits}
    calibration = Calibration(here, (*(fit for fit in old if _plan(fit.stages) not in new), *fits))
    calibration.save(directory)
    return calibration


def weights_checksum(directory: Path | str) -> str:
    """The first 16 hex digits of the SHA-256 of the weights of the pruner in ``directory``."""
    return hashlib.sha256((Path(directory) / WEIGHTS_FILE).read_bytes()).hexdigest()[:16]


@torch.inference_mode()
def fit_thresholds(
    model: PreTrainedModel,
    prompts: Sequence[TokenizedPrompt],
    schedule: PruneSchedule,
    selector: Selector,
    on_prompt: Callable[[], None] = lambda: None,
) -> PruneSchedule:
    """``schedule``, which is by ``top_k``, by thresholds that keep as many tokens of all ``prompts`` together at each stage.

    Stage by stage, each behind the thresholds of those before, as it will be in use: the threshold is the quantile of the scores of
    all prunable tokens that leaves what ``top_k`` keeps. Forced tokens are not in the quantile, since their scores decide nothing;
    they count among what is kept, as they do for ``top_k``. Where stages before have left none but forced tokens, a threshold
    lets no other pass. ``on_prompt`` is called once per prompt and stage. Holds the hidden states of all prompts. Raises
    ``ValueError`` where no token may be dropped to begin with.
    """
    wanted = [stage_counts(schedule, prompt.protected, prompt.segment_ends) for prompt in prompts]
    guarded = schedule.by_rule("threshold", [0.0] * len(schedule.stages))
    if all(Guards(guarded, prompt.protected).forced(len(prompt)) == len(prompt) for prompt in prompts):
        raise ValueError(f"no token of these {len(prompts)} prompts may be dropped: fit thresholds to longer prompts")
    runs = [_Run(decoder_parts(model), prompt, guarded, model.device) for prompt in prompts]
    taus: list[float] = []
    for stage in range(len(schedule.stages)):
        scores = []
        for run in runs:
            scores.append(run.score(stage, selector))
            on_prompt()
        kept = sum(counts[stage].kept for counts in wanted)
        taus.append(threshold_of(np.concatenate(scores), kept - sum(run.forced for run in runs)))
        for run in runs:
            run.drop(taus[-1])
    return schedule.by_rule("threshold", taus)


def threshold_of(scores: NDArray[np.float32], count: int) -> float:
    """What about ``count`` of ``scores``, float32 ``(n,)``, lie above.

    Midway between two neighbours in order, so that no verdict hangs on a rounding, at the gap nearest to ``count``: between equal
    scores there is none. NaN lies above nothing, and nothing above the threshold of no scores.
    """
    ordered = np.sort(scores[~np.isnan(scores)].astype(np.float64))[::-1]
    if not len(ordered):
        return float(np.finfo(np.float32).max)
    edges = np.concatenate(([ordered[0] + 1.0], ordered, [ordered[-1] - 1.0]))
    gaps = np.flatnonzero(edges[:-1] > edges[1:])
    gap = gaps[np.abs(gaps - count).argmin()]
    return float((edges[gap] + edges[gap + 1]) / 2)


class _Run:
    """One prompt on its way through the layers, halted at each stage. No cache: in a prefill a layer looks at its own tokens."""

    def __init__(self, parts: DecoderParts, prompt: TokenizedPrompt, schedule: PruneSchedule, device: torch.device) -> None:
        self._parts, self._schedule, self._layers_run = parts, schedule, 0
        self._layout = lay_out([prompt], schedule, device)
        self._stream = enter(parts, self._layout, parts.embed(self._layout.ids))

    def score(self, stage: int, selector: Selector) -> NDArray[np.float32]:
        """Go on to ``stage``: the scores of the prunable tokens there, float32 ``(prunable,)``."""
        stream, end = self._stream, self._schedule.stages[stage].after_layer + 1
        mask = attention_mask(self._parts.attention, None, stream.hidden)
        for layer in self._parts.layers[self._layers_run : end]:
            stream.hidden = run_layer(layer, stream.hidden, mask, None, stream.rope)
        self._layers_run = end
        if isinstance(selector, PreparedSelector):
            selector.prepare(self._layout.ids, self._layout.prompt_lengths)
        self._scores = selector.score(stream.hidden, stream.positions, stage, stream.lengths).float()
        self._forced = forced_now(stream, self._layout, self._schedule, stage)
        scores: NDArray[np.float32] = self._scores[~self._forced].cpu().numpy()
        return scores

    @property
    def forced(self) -> int:
        """How many tokens the stage must keep."""
        return int(self._forced.sum())

    def drop(self, tau: float) -> None:
        """Drop what the stage drops by ``tau``."""
        survives = above(self._scores, self._forced, tau)
        lengths = survives.sum(-1)
        count = int(lengths)
        self._stream.keep(Survivors(places(survives, count), (count,), lengths))


def _fit(stages: list[dict[str, float]], prompts: int, tokens: int, data: str) -> Fit:
    return Fit(tuple(PruneStage(int(s["after_layer"]), s["keep"], s["tau"]) for s in stages), prompts, tokens, data)


def _plan(stages: Sequence[PruneStage]) -> tuple[tuple[int, float], ...]:
    return tuple((stage.after_layer, stage.keep) for stage in stages)


def _describe(stages: Sequence[PruneStage]) -> str:
    return f"keep {_keeps(stages)} after layers {[stage.after_layer for stage in stages]}"


def _keeps(stages: Sequence[PruneStage]) -> str:
    return ",".join(str(keep) for keep in dict.fromkeys(stage.keep for stage in stages))


def _options(stages: Sequence[PruneStage]) -> str:
    return f"--keeps {_keeps(stages)} --stages {'+'.join(str(stage.after_layer) for stage in stages)}"
