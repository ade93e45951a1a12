"""How long a replan takes on this machine, as a function of how many tokens enter each layer.

Does not measure (`erecap calibrate --cost` does) and does not fit (``cost_fit``). Times belong to one setting: model,
selector, device, dtype, threads.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from erecap.calibration.flops import causal_pairs
from erecap.models.device import device_name, dtype_name
from erecap.models.files import fill_atomically
from erecap.models.identity import ModelIdentity
from erecap.models.loading import LoadedModel

DEFAULT_FILE = Path("runs/cost.json")
FORMAT_VERSION = 1


class CostModelMismatchError(ValueError):
    """Times that were measured in another setting than the one they are to be used in."""


@dataclass(frozen=True)
class Setting:
    """What times belong to. ``torch``, its version, is for people and is not compared; nor are ``threads`` beside a GPU."""

    model: ModelIdentity
    selector: str
    device: str
    dtype: str
    threads: int
    torch: str

    @classmethod
    def of(cls, loaded: LoadedModel, selector: str) -> "Setting":
        """The setting in which ``loaded`` runs in this process."""
        device = device_name(loaded.device)
        return cls(loaded.identity, selector, device, dtype_name(loaded.dtype), torch.get_num_threads(), str(torch.__version__))

    def describe(self) -> str:
        """One phrase for messages."""
        return f"{self.model.describe()}, selector {self.selector}, {self.dtype} on {self.device}, {self.threads} threads"

    def matches(self, other: "Setting") -> bool:
        """Whether times of one hold in the other."""
        threads = self.threads == other.threads or not self.device.startswith("cpu")
        own, others = (self.selector, self.device, self.dtype), (other.selector, other.device, other.dtype)
        return self.model.matches(other.model) and own == others and threads


@dataclass(frozen=True)
class CostModel:
    """Seconds of a replan: prefill, and decode of an answer of ``answer_tokens`` tokens; the model's part, not the agent's loop.

    Prefill: ``overhead_s`` (what does not depend on lengths, the layers' fixed cost included: one model has one depth), plus per
    token and per (query, key) pair of each layer, plus per stage and per token scored there. A stage that drops nothing is not
    run, so the counts of tokens say which stages cost. Decode: per step, plus per cached token of any layer that it reads.

    These predict medians. ``late_p90`` is the ratio to the prediction that 9 of 10 measured answers stayed below, on prompts that
    the fit has not seen; ``error_p50`` and ``error_max`` are the relative errors of the predicted medians there.
    """

    setting: Setting
    answer_tokens: int
    overhead_s: float
    per_token_s: float
    per_pair_s: float
    per_stage_s: float
    per_scored_s: float
    step_s: float
    per_cached_s: float
    late_p90: float = 1.0
    error_p50: float = 0.0
    error_max: float = 0.0

    def prefill_s(self, layer_tokens: Sequence[int]) -> float:
        """Prompt submitted to first token known; ``layer_tokens[l]`` tokens enter layer ``l``."""
        prices = (self.overhead_s, self.per_token_s, self.per_pair_s, self.per_stage_s, self.per_scored_s)
        return sum(price * amount for price, amount in zip(prices, prefill_work(layer_tokens), strict=True))

    def decode_s(self, layer_tokens: Sequence[int]) -> float:
        """The answer's tokens after the first."""
        steps, cached = decode_work(layer_tokens, self.answer_tokens)
        return self.step_s * steps + self.per_cached_s * cached

    def replan_s(self, layer_tokens: Sequence[int]) -> float:
        """The whole answer: what half of the replans take at most."""
        return self.prefill_s(layer_tokens) + self.decode_s(layer_tokens)

    def late_replan_s(self, layer_tokens: Sequence[int]) -> float:
        """What 9 of 10 replans take at most: the cost that a latency budget is held against."""
        return self.late_p90 * self.replan_s(layer_tokens)

    def save(self, path: Path) -> None:
        """Write the model to ``path`` as JSON, in one step."""
        text = json.dumps({"format_version": FORMAT_VERSION, **asdict(self)}, indent=2) + "\n"
        fill_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))

    @classmethod
    def load(cls, path: Path, setting: Setting | None = None) -> "CostModel":
        """Read what ``save`` wrote; with ``setting`` given, check that it was measured there.

        Raises ``ValueError`` where there is none or it is of another format, ``CostModelMismatchError``, naming both sides, where
        it was measured in another setting.
        """
        found = cls._parse(_read(path), path)
        if setting is not None and not found.setting.matches(setting):
            raise CostModelMismatchError(
                f"{path} was measured with {found.setting.describe()}; this is {setting.describe()}: run `erecap calibrate --cost` "
                "for this setting, or name the file of this setting with cost=FILE"
            )
        return found

    @classmethod
    def _parse(cls, saved: dict[str, Any], path: Path) -> "CostModel":
        try:
            setting = {**saved.pop("setting")}
            return cls(Setting(ModelIdentity(**setting.pop("model")), **setting), **saved)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} is no cost model ({error}): make it again with `erecap calibrate --cost`") from error


def prefill_work(layer_tokens: Sequence[int]) -> tuple[int, int, int, int, int]:
    """What a prefill is charged for: (once, tokens, pairs, stages, tokens scored), summed over layers."""
    scored = [here for here, following in pairwise(layer_tokens) if following < here]
    return 1, sum(layer_tokens), sum(map(causal_pairs, layer_tokens)), len(scored), sum(scored)


def decode_work(layer_tokens: Sequence[int], answer_tokens: int) -> tuple[int, int]:
    """What the tokens after the first are charged for: (steps, cached tokens read), summed over steps and layers."""
    steps = answer_tokens - 1
    return steps, steps * sum(layer_tokens) + len(layer_tokens) * causal_pairs(steps)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(
            f"there is no cost model at {path}: measure one with `erecap calibrate --cost --out {path}`, or name it with cost=FILE"
        )
    try:
        saved: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no cost model ({error}): make it again with `erecap calibrate --cost`") from error
    version = saved.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {version}, this erecap reads {FORMAT_VERSION}: make it again with `erecap calibrate --cost`"
        )
    return saved
