"""The schedule: after which layers tokens are dropped, how many, by which rule, and which are always kept."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from erecap.schedule.search import BudgetChoice, BudgetError, Cost, least_pruning
from erecap.schedule.shares import keep_of_share, shares_of
from erecap.schedule.stages import (
    PruneStage,
    Rule,
    check_depth,
    format_stages,
    parse_preset,
    parse_rule,
    parse_stages,
    seed_layers,
)


@dataclass(frozen=True)
class PruneSchedule:
    """The stages of a prefill, in the order of layers, and the tokens that no stage may drop.

    The first ``head`` tokens, the last ``max(tail_min, tail_share * current length)`` tokens and the protected tokens are always
    kept (as in SDTP, arXiv 2504.04514). They are called *forced*. ``rule`` says how a stage chooses among the tokens that reach it:

    - ``top_k``: the forced tokens, then the best by score, ``round(keep * current)`` in all.
    - ``chunk_top_k``: the forced tokens and, in each chunk (a message of the prompt), the best share ``keep`` of the others.
    - ``threshold``: the forced tokens, and all that score above the stage's ``tau``.

    With ``chunk_top_k`` and ``threshold``, whether a token survives depends on nothing outside its chunk, so it does not change
    when the prompt is extended. A tail that is a share of the length would break this, because it is longer in a longer prompt.
    ``by_rule`` therefore sets ``tail_share`` to 0 for these rules.

    Attributes
    ----------
    stages
        Stages in strictly rising order of layers.
    head
        Number of first tokens that are always kept.
    tail_min
        Smallest number of last tokens that are always kept, at least 1.
    tail_share
        Share of the current length that is always kept at the end, in [0, 1].
    rule
        Rule by which a stage chooses among the tokens that are not forced.
    """

    stages: tuple[PruneStage, ...] = ()
    head: int = 4
    tail_min: int = 16
    tail_share: float = 0.10
    rule: Rule = "top_k"

    def __post_init__(self) -> None:
        parse_rule(self.rule)
        self._check_layers()
        self._check_guards()
        without = [stage.after_layer for stage in self.stages if stage.tau is None]
        if self.rule == "threshold" and without:
            raise ValueError(
                f"rule 'threshold' needs a tau at every stage, those after layers {without} have none: fit them with "
                "`erecap calibrate`, or give PruneStage(after_layer, keep, tau)"
            )

    @classmethod
    def none(cls) -> "PruneSchedule":
        """Make the empty schedule, which is the baseline: every token enters every layer."""
        return cls()

    @classmethod
    def after(cls, layers: Iterable[int], keep: float) -> "PruneSchedule":
        """Make a schedule with a stage after each of ``layers``, all with the keep ratio ``keep``."""
        return cls(tuple(PruneStage(layer, keep) for layer in layers))

    @classmethod
    def for_depth(cls, num_layers: int, keep: float) -> "PruneSchedule":
        """Make a schedule with the default stages (``stages.seed_layers``) for a model of ``num_layers`` layers."""
        return cls.after(seed_layers(num_layers), keep)

    @classmethod
    def of_stages(cls, stages: str | None, num_layers: int, keep: float) -> "PruneSchedule":
        """Make a schedule from stages that are given as text.

        Parameters
        ----------
        stages
            Layers as ``parse_stages`` reads them; ``None`` for the default stages.
        num_layers
            Depth of the model.
        keep
            Keep ratio of every stage, in (0, 1].

        Raises
        ------
        ValueError
            For text that names no layers, or a stage that has no layer after it.
        """
        layers = seed_layers(num_layers) if stages is None else parse_stages(stages)
        schedule = cls.after(layers, keep)
        schedule.check_depth(num_layers)
        return schedule

    @classmethod
    def of_share(cls, stages: str | None, num_layers: int, share: float) -> "PruneSchedule":
        """Make a schedule by what is left on average instead of at each stage.

        Parameters
        ----------
        stages
            Layers as ``parse_stages`` reads them; ``None`` for the default stages.
        num_layers
            Depth of the model.
        share
            Share of a prompt's tokens that a layer sees, mean over the layers, in (0, 1] (``shares.keep_of_share``).

        Raises
        ------
        ValueError
            As ``of_stages``, and for a share that no keep ratio gives.
        """
        whole = cls.of_stages(stages, num_layers, 1.0)
        return whole.with_keep(keep_of_share(whole.layers, num_layers, share))

    @classmethod
    def choose(
        cls, num_layers: int, cost: Cost, budget: float, protected: NDArray[np.bool_], stages: Sequence[int] | None = None
    ) -> BudgetChoice["PruneSchedule"]:
        """Choose the schedule that drops least within a budget, or the cheapest where none fits.

        Parameters and errors are those of ``search.least_pruning``.
        """
        return least_pruning(_uniform, num_layers, cost, budget, protected, stages)

    @classmethod
    def for_budget(
        cls, num_layers: int, cost: Cost, budget: float, prompt: int | NDArray[np.bool_], stages: Sequence[int] | None = None
    ) -> "PruneSchedule":
        """Make the schedule that drops least among those with ``cost(layer_tokens) <= budget``.

        Parameters
        ----------
        num_layers
            Depth of the model.
        cost
            ``CostModel.late_replan_s`` for seconds, ``flops_cost(config)`` for FLOPs, or any function of the tokens that enter
            each layer.
        budget
            The most that the prefill may cost, in the unit of ``cost``.
        prompt
            Number of the prompt's tokens, or the mask of its protected ones, bool ``(tokens,)``.
        stages
            Layers after which pruning is possible. Default: all but the last.

        Raises
        ------
        BudgetError
            Where even the cheapest schedule costs more.
        ValueError
            For a budget that is not positive, or a prompt of no tokens.
        """
        if not isinstance(prompt, np.ndarray) and prompt < 1:
            raise ValueError(f"prompt={prompt} must be at least 1: give its number of tokens, or the mask of its protected ones")
        protected = prompt if isinstance(prompt, np.ndarray) else np.zeros(prompt, np.bool_)
        choice = cls.choose(num_layers, cost, budget, protected, stages)
        if not choice.met:
            raise BudgetError(
                f"budget={budget:g} cannot be met for a prompt of {len(protected)} tokens, {int(protected.sum())} of them "
                f"protected: the cheapest schedule ({choice.schedule}) costs {choice.cost:g}; raise the budget, or shorten the "
                "prompt"
            )
        return choice.schedule

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers after which the stages come."""
        return tuple(stage.after_layer for stage in self.stages)

    @classmethod
    def preset(cls, name: str, num_layers: int) -> "PruneSchedule":
        """Make the preset called ``name``, which has the default stages.

        Parameters
        ----------
        name
            ``keep07`` keeps 0.7 at each stage (the seed's presets are ``keep09``, ``keep08`` and ``keep07``); ``share06`` keeps 0.6
            on average over the layers. Any decimals may follow the 0: ``keep065``.
        num_layers
            Depth of the model.

        Raises
        ------
        ValueError
            For another name, and a share that no keep ratio gives.
        """
        kind, ratio = parse_preset(name)
        return cls.for_depth(num_layers, ratio) if kind == "keep" else cls.of_share(None, num_layers, ratio)

    def shares(self, num_layers: int) -> tuple[float, float]:
        """Compute what the keep ratios leave of a long prompt: mean over ``num_layers`` layers, and in the last (``shares``)."""
        return shares_of(self.layers, [stage.keep for stage in self.stages], num_layers)

    def with_keep(self, keep: float) -> "PruneSchedule":
        """Return the same stages and guards with another keep ratio at every stage."""
        return replace(self, stages=tuple(replace(stage, keep=keep) for stage in self.stages))

    def by_rule(self, rule: Rule, taus: Sequence[float] = ()) -> "PruneSchedule":
        """Return the same stages with another rule.

        For ``chunk_top_k`` and ``threshold`` the guarded tail is ``tail_min`` tokens and no share of the length.

        Parameters
        ----------
        rule
            The rule of the new schedule.
        taus
            Thresholds for the rule ``threshold``, one per stage.

        Raises
        ------
        ValueError
            Where the number of ``taus`` is not that of the stages, or ``threshold`` gets none.
        """
        if taus and len(taus) != len(self.stages):
            raise ValueError(f"{len(taus)} taus for {len(self.stages)} stages: give one per stage")
        stages = tuple(replace(stage, tau=tau) for stage, tau in zip(self.stages, taus, strict=True)) if taus else self.stages
        return replace(self, rule=rule, stages=stages, tail_share=self.tail_share if rule == "top_k" else 0.0)

    def check_depth(self, num_layers: int) -> None:
        """Raise ``ValueError`` unless every stage has a layer after it in a model of ``num_layers`` layers."""
        check_depth(self.stages, num_layers)

    def __str__(self) -> str:
        """Write stages and keep ratios in short: ``1-6@0.62``, ``0+2-4@0.9,5@0.5``, or ``none``."""
        groups = groupby(self.stages, key=lambda stage: stage.keep)
        return ",".join(f"{format_stages(stage.after_layer for stage in group)}@{keep:g}" for keep, group in groups) or "none"

    def _check_layers(self) -> None:
        layers = list(self.layers)
        if layers != sorted(set(layers)):
            raise ValueError(f"stages after layers {layers} are not in strictly rising order: give each layer once, in order")

    def _check_guards(self) -> None:
        if self.head < 0:
            raise ValueError(f"head={self.head} must not be negative: use 0 to guard no token at the start")
        if self.tail_min < 1:
            raise ValueError(
                f"tail_min={self.tail_min} must be at least 1: the answer is read off the last token, which no stage may drop"
            )
        if not 0.0 <= self.tail_share <= 1.0:
            raise ValueError(f"tail_share={self.tail_share} must be in [0, 1]: give a share of the current length, such as 0.1")


@lru_cache(maxsize=4096)
def _uniform(layers: tuple[int, ...], keep: float) -> PruneSchedule:
    """Make a schedule with one keep ratio for all stages. Cached: each search tries the same ones."""
    return PruneSchedule.after(layers, keep)
