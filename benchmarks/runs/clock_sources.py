"""Where a clock takes the seconds of thinking from: a cost model, or the measured time.

With a cost model an episode is a function of its seed, on any machine. This module imports torch.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

from agents.clock import Clock
from erecap.calibration.bundled_costs import DEFAULT_COST, find_cost
from erecap.calibration.cost_model import MEASURED as MEASURED_PRICES
from erecap.calibration.cost_model import CostModel
from erecap.capacity.prices import SessionPrices, recorded
from planner import Generation

MODEL, MEASURED = "model", "measured"


@dataclass(frozen=True)
class MeasuredSeconds:
    """The time that a replan really took, from the observation to the read answer."""

    def __call__(self, generation: Generation, replan_s: float) -> float:
        """Return ``replan_s``."""
        return replan_s

    def __str__(self) -> str:
        return "measured seconds of each replan"


@dataclass(frozen=True)
class PricedSeconds:
    """The seconds that the model of a cost model would take, for as many tokens as the planner read and wrote.

    Prefill is charged by the tokens that entered each layer, decode by the tokens of the answer. Where the planner has another
    depth than the priced model, each of its layers stands for an equal share of that model's layers, so the kept share stays about
    the same and a pruned planner keeps its number of stages. A planner that tells no tokens by layer, such as a remote one, is
    charged as unpruned. One cost model prices all backends: an unpruned one has no stages to pay for, and every selector pays the
    price of the one that was measured. In a session only what was not held before is charged as prefill, and each forward pass of
    the answer with its draft (``erecap.capacity.prices``). The agent's own part of a replan (text, tokenizing, parsing) is not
    charged.

    Attributes
    ----------
    cost
        The cost model.
    """

    cost: CostModel

    def __call__(self, generation: Generation, replan_s: float) -> float:
        """Predict the seconds of the answer; ``replan_s`` is not used.

        Raises
        ------
        ValueError
            For an answer whose prompt's tokens were not counted.
        """
        if not generation.prompt_tokens:
            raise ValueError(
                "this backend does not tell how many tokens its prompt had, so a cost model cannot price it: "
                "use --clock-source measured"
            )
        counts = generation.layer_tokens or (generation.prompt_tokens,)
        layers = stretched(counts, self.cost.setting.model.num_layers)
        if generation.reused_tokens or generation.drafts:
            return self._in_session(generation, layers)
        return self.cost.replan_s(layers, max(1, generation.new_tokens))

    def _in_session(self, generation: Generation, held: tuple[int, ...]) -> float:
        """Predict the seconds of an answer in a session, of whose prompt ``held[l]`` tokens are in layer ``l``."""
        passes = generation.drafts or ((0, 0),) * max(1, generation.new_tokens)
        prices = SessionPrices(self.cost, 1, recorded)
        seconds, written = prices.extend_s(generation.prompt_tokens - generation.reused_tokens, held, passes[0][0]), 0
        for (_, accepted), (drafted, _) in pairwise(passes):
            written += accepted + 1
            seconds += prices.pass_s(held, written, drafted)
        return seconds

    def __str__(self) -> str:
        prices = hashlib.sha256(json.dumps(asdict(self.cost), sort_keys=True).encode()).hexdigest()[:8]
        kind = "measured" if self.cost.basis == MEASURED_PRICES else "PREDICTED, not measured"
        return f"cost model of {self.cost.setting.describe()} ({kind}; prices {prices})"


def stretched(layer_tokens: Sequence[int], layers: int) -> tuple[int, ...]:
    """Return the tokens that would enter each of ``layers`` layers, where each given layer stands for an equal share of them."""
    return tuple(layer_tokens[layer * len(layer_tokens) // layers] for layer in range(layers))


def make_clock(steps_per_second: float, source: str) -> Clock | None:
    """Make a clock.

    Parameters
    ----------
    steps_per_second
        Environment steps per second of thinking; 0 for a world that waits.
    source
        ``measured``; ``model`` for the bundled cost model of the bundled planner; ``model:NAME`` for another bundled one, or
        ``model:FILE``.

    Returns
    -------
    Clock or None
        The clock; ``None`` for a world that waits.

    Raises
    ------
    ValueError
        For an unknown source, and for a cost model that cannot be read.
    """
    kind, colon, name = source.partition(":")
    if source != MEASURED and (kind != MODEL or (colon and not name)):
        raise ValueError(
            f"--clock-source {source!r} is not known: use {MEASURED}, {MODEL} for the bundled planner on a CPU, or "
            f"{MODEL}:FILE for a file of `erecap calibrate --cost`"
        )
    seconds = MeasuredSeconds() if source == MEASURED else PricedSeconds(find_cost(name or DEFAULT_COST))
    return Clock(steps_per_second, seconds) if steps_per_second else None
