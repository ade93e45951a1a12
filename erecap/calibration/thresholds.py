"""Thresholds for the rule ``threshold``: their fit to recorded prompts, and the file that holds them in the pruner's directory.

A threshold matches a keep ratio only for the scores that it was fitted to, so the file names the checksum of the pruner's weights.
The thresholds of one fit belong together: each was fitted to the tokens that the stages before it left.
"""

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
from erecap.engine.selector_protocol import PreparedSelector, Selector
from erecap.engine.stream import Survivors
from erecap.models.architecture import DecoderParts, decoder_parts
from erecap.models.files import is_finite_number, read_json_object, reading, write_json_object
from erecap.models.masks import attention_mask
from erecap.models.pruner import weights_checksum
from erecap.models.tokenization import TokenizedPrompt
from erecap.schedule import PruneSchedule, PruneStage, stage_counts
from erecap.schedule.counts import Guards

CALIBRATION_FILE = "calibration.json"
FORMAT_VERSION = 1
_REMEDY = "remove it, and fit the thresholds again with `erecap calibrate`"


@dataclass(frozen=True)
class Fit:
    """The thresholds of one schedule, and the prompts that they were fitted to.

    Attributes
    ----------
    stages
        Stages, each with its threshold.
    prompts
        Number of prompts.
    tokens
        Tokens of all prompts together.
    data
        Source of the prompts, in words.
    """

    stages: tuple[PruneStage, ...]
    prompts: int
    tokens: int
    data: str

    def fits(self, schedule: PruneSchedule) -> bool:
        """Tell whether layers and keep ratios are those of ``schedule``."""
        return _plan(self.stages) == _plan(schedule.stages)


@dataclass(frozen=True)
class PrunerThresholds:
    """All thresholds of one pruner.

    Attributes
    ----------
    pruner
        Checksum of the pruner's weights (``weights_checksum``).
    fits
        One entry per schedule.
    """

    pruner: str
    fits: tuple[Fit, ...] = ()

    def taus(self, schedule: PruneSchedule) -> tuple[float, ...]:
        """Return a threshold for each stage of ``schedule``. Raise ``ValueError`` where none were fitted for it."""
        for fit in self.fits:
            if fit.fits(schedule):
                return tuple(stage.tau for stage in fit.stages if stage.tau is not None)
        there = "; ".join(_describe(fit.stages) for fit in self.fits) or "none"
        raise ValueError(
            f"the pruner's calibration has no thresholds for {_describe(schedule.stages)} (there are: {there}): fit them with "
            f"`erecap calibrate {_options(schedule.stages)}`"
        )

    def save(self, directory: Path | str) -> None:
        """Write the file into the pruner's ``directory``, atomically."""
        write_json_object(Path(directory) / CALIBRATION_FILE, {"format_version": FORMAT_VERSION, **asdict(self)})


def read_calibration(directory: Path | str) -> PrunerThresholds:
    """Read the thresholds of the pruner in ``directory``.

    Raises
    ------
    ValueError
        Where there is no file, it has another format, or the pruner was replaced after the fit.
    """
    path = Path(directory) / CALIBRATION_FILE
    if not path.is_file():
        raise ValueError(f"the pruner in {directory} has no {CALIBRATION_FILE}: fit thresholds for it with `erecap calibrate`")
    saved = read_json_object(path, _REMEDY)
    if saved.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {saved.get('format_version')}, this erecap reads {FORMAT_VERSION}: fit the thresholds "
            "again with `erecap calibrate`"
        )
    here = weights_checksum(directory)
    if saved.get("pruner") != here:
        raise ValueError(
            f"{path} was fitted to the scores of another pruner (checksum {saved.get('pruner')}) than the one beside it ({here}): "
            "fit the thresholds again with `erecap calibrate`"
        )
    with reading(path, _REMEDY):
        return PrunerThresholds(here, tuple(_fit(**fields) for fields in saved["fits"]))


def add_fits(directory: Path | str, fits: Sequence[Fit]) -> PrunerThresholds:
    """Save thresholds beside a pruner.

    They replace thresholds for the same layers and keep ratios. Other thresholds stay if they belong to the same weights.

    Parameters
    ----------
    directory
        The pruner's directory.
    fits
        The thresholds to add.

    Returns
    -------
    PrunerThresholds
        All thresholds that the file now holds.

    Raises
    ------
    ValueError
        For a file of another format.
    """
    path, here = Path(directory) / CALIBRATION_FILE, weights_checksum(directory)
    stale = not path.is_file() or read_json_object(path, _REMEDY).get("pruner") != here
    old = () if stale else read_calibration(directory).fits
    new = {_plan(fit.stages) for fit in fits}
    thresholds = PrunerThresholds(here, (*(fit for fit in old if _plan(fit.stages) not in new), *fits))
    thresholds.save(directory)
    return thresholds


@torch.inference_mode()
def fit_thresholds(
    model: PreTrainedModel,
    prompts: Sequence[TokenizedPrompt],
    schedule: PruneSchedule,
    selector: Selector,
    on_prompt: Callable[[], None] = lambda: None,
) -> PruneSchedule:
    """Fit thresholds that keep as many tokens as ``top_k`` does, over all prompts together, at each stage.

    Stages are fitted in order; each sees the tokens that the thresholds before it left, as in use. The threshold is a quantile of
    the scores of all prunable tokens, chosen so that as many tokens survive as under ``top_k``. Forced tokens survive with any
    score: they count as kept and are not part of the quantile. If ``top_k`` keeps forced tokens only, the threshold exceeds all
    scores. The hidden states of all prompts are held in memory.

    Parameters
    ----------
    model
        The model to be pruned.
    prompts
        The prompts to fit to.
    schedule
        Stages and keep ratios, with the rule ``top_k``.
    selector
        Scores the tokens.
    on_prompt
        Called once per prompt and stage.

    Returns
    -------
    PruneSchedule
        The same stages with the rule ``threshold``.

    Raises
    ------
    ValueError
        Where all tokens of all prompts are forced at the first stage.
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
    """Find the threshold that about ``count`` scores exceed.

    The threshold lies midway between two neighbouring scores, so rounding does not change what survives. Equal scores cannot be
    separated, so the gap nearest to ``count`` is taken. NaN counts as below every threshold.

    Parameters
    ----------
    scores
        float32 ``(n,)``.
    count
        Number of scores that should exceed the threshold.

    Returns
    -------
    float
        The threshold; the largest float32 where there are no scores.
    """
    ordered = np.sort(scores[~np.isnan(scores)].astype(np.float64))[::-1]
    if not len(ordered):
        return float(np.finfo(np.float32).max)
    edges = np.concatenate(([ordered[0] + 1.0], ordered, [ordered[-1] - 1.0]))
    gaps = np.flatnonzero(edges[:-1] > edges[1:])
    gap = gaps[np.abs(gaps - count).argmin()]
    return float((edges[gap] + edges[gap + 1]) / 2)


class _Run:
    """One prompt on its way through the layers, stopped at each stage. It has no KV cache, since nothing is decoded."""

    def __init__(self, parts: DecoderParts, prompt: TokenizedPrompt, schedule: PruneSchedule, device: torch.device) -> None:
        self._parts, self._layers_run = parts, 0
        self._layout = lay_out([prompt], schedule, device)
        self._stream = enter(parts, self._layout, parts.embed(self._layout.ids))

    def score(self, stage: int, selector: Selector) -> NDArray[np.float32]:
        """Run the layers up to ``stage`` and score its prunable tokens, float32 ``(prunable,)``."""
        stream, end = self._stream, self._layout.stages[stage].after_layer + 1
        mask = attention_mask(self._parts.attention, None, stream.hidden)
        for layer in self._parts.layers[self._layers_run : end]:
            stream.hidden = run_layer(layer, stream.hidden, mask, None, stream.rope)
        self._layers_run = end
        if isinstance(selector, PreparedSelector):
            selector.prepare(self._layout.ids, self._layout.prompt_lengths)
        self._scores = selector.score(stream.hidden, stream.positions, stage, stream.lengths).float()
        self._forced = forced_now(stream, self._layout.stages[stage])
        scores: NDArray[np.float32] = self._scores[~self._forced].cpu().numpy()
        return scores

    @property
    def forced(self) -> int:
        """Number of tokens that the stage must keep."""
        return int(self._forced.sum())

    def drop(self, tau: float) -> None:
        """Drop the tokens that score ``tau`` or less and are not forced."""
        survives = above(self._scores, self._forced, tau)
        lengths = survives.sum(-1)
        count = int(lengths)
        self._stream.keep(Survivors(places(survives, count), (count,), lengths))


def _fit(stages: list[dict[str, float]], prompts: int, tokens: int, data: str) -> Fit:
    if not stages or not all(is_finite_number(value) for stage in stages for value in stage.values()):
        raise ValueError("a stage without numbers")
    found = tuple(PruneStage(int(s["after_layer"]), s["keep"], s["tau"]) for s in stages)
    return Fit(found, prompts, tokens, data)


def _plan(stages: Sequence[PruneStage]) -> tuple[tuple[int, float], ...]:
    return tuple((stage.after_layer, stage.keep) for stage in stages)


def _describe(stages: Sequence[PruneStage]) -> str:
    return f"keep {_keeps(stages)} after layers {[stage.after_layer for stage in stages]}"


def _keeps(stages: Sequence[PruneStage]) -> str:
    return ",".join(str(keep) for keep in dict.fromkeys(stage.keep for stage in stages))


def _options(stages: Sequence[PruneStage]) -> str:
    return f"--keeps {_keeps(stages)} --stages {'+'.join(str(stage.after_layer) for stage in stages)}"
