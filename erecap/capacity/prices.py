"""What the replans of a session cost, in seconds and bytes.

Names: ``L`` layers; ``h[l]`` tokens that layer ``l`` holds of the prompt, the new ones included; ``n`` new tokens; ``a`` tokens of
the answer; ``k`` tokens that a forward pass of the answer runs, 1 without a draft. Prices are those of a ``CostModel``. With
``e[l] = min(n, h[l])``:

- **Taking in the new tokens** (``extend_s``): ``overhead_s + per_token_s * (sum(e) + L * (k - 1)) + per_pair_s * sum(e * (h - e) +
  e * (e + 1) / 2)``, and for each layer that holds fewer tokens than the one before ``per_stage_s + per_scored_s * n``. New tokens
  are protected and run through all layers, pruned or not; so pruning saves pairs here and nothing else, and pays for its stages.
- **Bytes of the session** (``kv_bytes``): ``(sum(h) + L * a) *`` bytes of a token in a layer. Tokens of an answer stay in all
  layers until the next replan. Room to grow is not counted, as ``kv_budget_mb`` does not count it.
- **A further forward pass of the answer**, for all rows of a batch together: ``step_s + per_token_s * L * (sum of k - 1) +
  per_cached_s * sum of (sum(h) + L * a)``, summed over rows. The weights are read once, which is ``step_s``. What the other tokens
  compute is added, though on a GPU it overlaps with the reading in part: times are rather too long than too short.
- **Rebuilding an evicted session** (``rebuild_s``): unpruned, a prefill of the prompt. Pruned, each turn once more, its answer as
  a turn of its own, as ``erecap.sessions.store`` does. A new agent's first prompt costs the same, and is one turn.

Left out: moving keys and values when tokens are dropped that are protected no longer, tokenizing, and the agent's own work.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

import numpy as np

from erecap.calibration.cost_model import CostModel
from erecap.capacity.replans import Episode, Replan
from erecap.schedule import PruneSchedule
from erecap.schedule.counts import layer_tokens

Held = Callable[[Replan], tuple[int, ...]]
"""Counts the tokens that each layer holds of a prompt, the new ones included."""


@dataclass(frozen=True)
class PricedReplan:
    """One replan, priced.

    Attributes
    ----------
    extend_s
        Seconds of taking in the new tokens, where the session is there.
    rebuild_s
        Seconds of making the session anew.
    kv_bytes
        Bytes of the session after the answer.
    cached_tokens
        Tokens that a forward pass of the answer reads, summed over layers.
    passes
        Forward passes of the answer, the one that ends the prompt included.
    tokens_a_pass
        Mean tokens that each of them runs.
    acting_s
        Seconds from the answer until the agent asks for the next plan.
    starts
        Whether it begins an episode, with an empty session.
    """

    extend_s: float
    rebuild_s: float
    kv_bytes: int
    cached_tokens: int
    passes: int
    tokens_a_pass: float
    acting_s: float
    starts: bool = False


@dataclass(frozen=True)
class SessionPrices:
    """The prices of one backend's sessions.

    Attributes
    ----------
    cost
        The cost model.
    token_bytes
        Bytes of the keys and values of a token in one layer.
    held
        Counts the tokens that each layer holds.
    """

    cost: CostModel
    token_bytes: int
    held: Held

    def episode(self, replans: Episode) -> list[PricedReplan]:
        """Price the replans of an episode."""
        priced, earlier_s = [], 0.0
        for number, replan in enumerate(replans):
            held = self.held(replan)
            one = self._replan(replan, held, earlier_s, number == 0)
            earlier_s += one.extend_s + self._answer_s(replan, held)
            priced.append(one)
        return priced

    def extend_s(self, new_tokens: float, held: tuple[int, ...], drafted: float = 0.0) -> float:
        """Compute the seconds of taking in new tokens, with ``drafted`` tokens of the answer behind them.

        Parameters
        ----------
        new_tokens
            Tokens that are run.
        held
            Tokens that each layer holds afterwards, without the drafted ones.
        drafted
            Tokens of the draft.
        """
        entered = [min(new_tokens, here) for here in held]
        pairs = sum(one * (here - one) + one * (one + 1) / 2 for one, here in zip(entered, held, strict=True))
        stages = sum(following < here for here, following in pairwise(held))
        c = self.cost
        tokens = sum(entered) + drafted * len(held)
        return c.overhead_s + c.per_token_s * tokens + c.per_pair_s * pairs + stages * (c.per_stage_s + c.per_scored_s * new_tokens)

    def pass_s(self, held: tuple[int, ...], written: int, drafted: float = 0.0) -> float:
        """Compute the seconds of a further forward pass of an answer, alone in its batch.

        Parameters
        ----------
        held
            Tokens of the prompt that each layer holds.
        written
            Tokens of the answer so far.
        drafted
            Tokens of the draft that it verifies.
        """
        cached = sum(held) + len(held) * written
        return self.cost.step_s + self.cost.per_token_s * len(held) * drafted + self.cost.per_cached_s * cached

    def _replan(self, replan: Replan, held: tuple[int, ...], earlier_s: float, starts: bool) -> PricedReplan:
        layers, drafted = len(held), replan.tokens_a_pass - 1
        extend_s = self.extend_s(replan.new_tokens, held, drafted)
        pruned = min(held) < replan.prompt_tokens
        rebuild_s = earlier_s + extend_s if pruned else self.extend_s(replan.prompt_tokens, held, drafted)
        cached = sum(held) + layers * replan.answer_tokens
        return PricedReplan(
            extend_s, rebuild_s, cached * self.token_bytes, cached, replan.passes, replan.tokens_a_pass, replan.acting_s, starts
        )

    def _answer_s(self, replan: Replan, held: tuple[int, ...]) -> float:
        """Compute the seconds of an answer as a turn of its own; its last token is not held."""
        answer = replan.answer_tokens - 1
        return self.extend_s(answer, tuple(here + answer for here in held)) if answer else 0.0


def unpruned(layers: int) -> Held:
    """Count the tokens of sessions that hold every token in each of ``layers`` layers."""
    return lambda replan: (replan.prompt_tokens,) * layers


def by_schedule(schedule: PruneSchedule, layers: int) -> Held:
    """Count the tokens by a schedule of rule ``chunk_top_k``.

    The prompt is taken as one message, so the rounding of each is left out. Its protected tokens are the new ones at the end, and
    the others at the beginning.

    Raises
    ------
    ValueError
        For a stage that has no layer after it.
    """
    schedule = schedule.by_rule("chunk_top_k")
    schedule.check_depth(layers)

    @lru_cache(maxsize=4096)
    def count(tokens: int, new: int, protected: int) -> tuple[int, ...]:
        flags = np.zeros(tokens, np.bool_)
        flags[tokens - new :] = True
        flags[: protected - new] = True
        return layer_tokens(schedule, layers, flags)

    return lambda replan: count(replan.prompt_tokens, replan.new_tokens, min(replan.protected_tokens, replan.prompt_tokens))


def recorded(replan: Replan) -> tuple[int, ...]:
    """Return the tokens by layer that were recorded with a replan."""
    return replan.layer_tokens


def steady(priced: list[PricedReplan]) -> list[PricedReplan]:
    """Return the episode of an agent that stays at the last replan of ``priced``."""
    return [replace(priced[-1], starts=False)]
