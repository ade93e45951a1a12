"""The stages of a schedule: after which layers tokens are dropped, by which rule, and how both are written as text."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, get_args

Rule = Literal["top_k", "chunk_top_k", "threshold"]

SEED_DEPTH = 28
SEED_LAYERS = tuple(range(4, SEED_DEPTH - 2, 3))
_PRESET = re.compile(r"(keep|share)0(\d+)")


@dataclass(frozen=True)
class PruneStage:
    """A place between two layers at which tokens are dropped.

    Attributes
    ----------
    after_layer
        Layer after which the stage comes, counted from 0.
    keep
        Share of the tokens reaching the stage that enter the next layer, in (0, 1].
    tau
        Score that a token must exceed under the rule ``threshold``. ``erecap.calibration.thresholds`` fits it so that the share
        ``keep`` survives on average. Other rules ignore it.
    """

    after_layer: int
    keep: float
    tau: float | None = None

    def __post_init__(self) -> None:
        if self.after_layer < 0:
            raise ValueError(f"after_layer={self.after_layer} must not be negative: layers are counted from 0")
        if not 0.0 < self.keep <= 1.0:
            raise ValueError(f"keep={self.keep} must be in (0, 1]: give the share of tokens to keep, such as 0.7")
        if self.tau is not None and math.isnan(self.tau):
            raise ValueError("tau=nan is exceeded by no score: give a number, such as `erecap calibrate` fits")


def parse_rule(text: str) -> Rule:
    """Return the rule called ``text``. Raise ``ValueError`` for an unknown name."""
    for rule in get_args(Rule):
        if text == rule:
            return rule  # type: ignore[no-any-return]  # get_args returns Any
    raise ValueError(f"rule {text!r} is not known: the rules are {', '.join(get_args(Rule))}")


def parse_preset(name: str) -> tuple[Literal["keep", "share"], float]:
    """Read the name of a preset: ``("keep", 0.65)`` for ``keep065``. Raise ``ValueError`` for another name."""
    match = _PRESET.fullmatch(name)
    ratio = float(f"0.{match[2]}") if match else 0.0
    if match is None or not ratio:
        raise ValueError(f"preset {name!r} is not known: write keep07 for 0.7 at each stage, or share06 for 0.6 on average")
    return ("keep" if match[1] == "keep" else "share"), ratio


def parse_stages(text: str) -> tuple[int, ...]:
    """Read the layers after which to prune.

    Parameters
    ----------
    text
        Ranges and single layers joined by ``+``: ``0-5``, ``0+2+4``, ``0+3-5``.

    Raises
    ------
    ValueError
        For any other text, or a range that ends before it begins.
    """
    layers: list[int] = []
    for part in text.split("+"):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(f"stages={text!r} are not layers: write them like 0-5 or 0+2+4")
        if int(last or first) < int(first):
            raise ValueError(f"stages={text!r} has a range that ends before it begins: write {last}-{first}")
        layers.extend(range(int(first), int(last or first) + 1))
    return tuple(layers)


def format_stages(layers: Iterable[int]) -> str:
    """Write layers, in rising order, as ``parse_stages`` reads them: ``0+3-5``."""
    runs = [[layer for _, layer in run] for _, run in groupby(enumerate(layers), key=lambda pair: pair[1] - pair[0])]
    return "+".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def seed_layers(num_layers: int) -> tuple[int, ...]:
    """Return the layers of the default stages for a model of ``num_layers`` layers.

    They are those of the seed, the implementation that this project grew from: ``range(4, 26, 3)`` for 28 layers. For another depth
    each layer becomes ``round(layer * num_layers / 28)``, halves up. Layers that coincide count once. A stage after the last layer
    would drop nothing and is left out.

    Raises
    ------
    ValueError
        Where ``num_layers`` is below 1.
    """
    if num_layers < 1:
        raise ValueError(f"num_layers={num_layers} must be at least 1: give the depth of the model")
    scaled = sorted({(2 * layer * num_layers + SEED_DEPTH) // (2 * SEED_DEPTH) for layer in SEED_LAYERS})
    return tuple(layer for layer in scaled if layer < num_layers - 1)


def check_depth(stages: Sequence[PruneStage], num_layers: int) -> None:
    """Raise ``ValueError`` unless each of ``stages`` has a layer after it in a model of ``num_layers`` layers."""
    if stages and stages[-1].after_layer >= num_layers - 1:
        raise ValueError(
            f"a stage after layer {stages[-1].after_layer} does not fit a model of {num_layers} layers, where the last "
            f"stage can follow layer {num_layers - 2}: make the schedule with PruneSchedule.for_depth({num_layers}, keep)"
        )
