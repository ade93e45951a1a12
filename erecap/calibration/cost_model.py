"""The cost model: seconds of a replan on this machine, as a function of how many tokens enter each layer.

`erecap calibrate --cost` measures the times and ``erecap.calibration.cost_fit`` fits the model to them. Times hold for one setting
only: model, selector, device, dtype, threads.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from erecap.calibration.flops import causal_pairs
from erecap.models.device import device_name, dtype_name
from erecap.models.files import is_finite_number, read_json_object, reading, write_json_object
from erecap.models.identity import ModelIdentity
from erecap.models.loading import LoadedModel

DEFAULT_FILE = Path("runs/cost.json")
FORMAT_VERSION = 1
MEASURED = "measured"
_REMEDY = "make it again with `erecap calibrate --cost`"


class CostModelMismatchError(ValueError):
    """An error for a cost model that was measured in another setting than the present one."""


@dataclass(frozen=True)
class Setting:
    """The setting in which times were measured.

    Attributes
    ----------
    model
        Identity of the language model.
    selector
        Name of the selector.
    device
        Name of the GPU, or ``cpu`` and the processor's name; for several devices also how the model is spread over them.
    dtype
        Dtype of the weights.
    threads
        CPU threads of torch, 0 in a prediction; ignored by ``matches`` where the device is a GPU.
    torch
        Version of torch; ignored by ``matches``.
    """

    model: ModelIdentity
    selector: str
    device: str
    dtype: str
    threads: int
    torch: str

    @classmethod
    def of(cls, loaded: LoadedModel, selector: str) -> "Setting":
        """Return the setting of ``loaded`` in this process, with the selector called ``selector``."""
        spread = "".join(f", {name} {value}" for name, value in loaded.spread.items())
        device = device_name(loaded.device) + spread
        return cls(loaded.identity, selector, device, dtype_name(loaded.dtype), torch.get_num_threads(), str(torch.__version__))

    def describe(self) -> str:
        """Write the setting as one phrase for messages."""
        threads = f", {self.threads} threads" if self.threads else ""
        return f"{self.model.describe()}, selector {self.selector}, {self.dtype} on {self.device}{threads}"

    def matches(self, other: "Setting") -> bool:
        """Tell whether times measured in one setting hold in the other."""
        threads = self.threads == other.threads or not self.device.startswith("cpu")
        own, others = (self.selector, self.device, self.dtype), (other.selector, other.device, other.dtype)
        return self.model.matches(other.model) and own == others and threads


@dataclass(frozen=True)
class CostModel:
    """A linear model of the seconds that a model takes to answer a replan: prefill and decode, without the agent's loop.

    The prices predict medians. The engine skips a stage that drops nothing, so the token counts per layer also tell which stages
    ran. The last three fields were measured on prompts that were held out from the fit.

    Attributes
    ----------
    setting
        Setting in which the times were measured.
    answer_tokens
        Tokens of the answer, the end token included.
    overhead_s
        Seconds of a prefill that do not depend on the number of tokens.
    per_token_s
        Seconds per token that enters a layer.
    per_pair_s
        Seconds per (query, key) pair of a layer's causal attention.
    per_stage_s
        Seconds per stage that drops tokens.
    per_scored_s
        Seconds per token that a stage scores.
    step_s
        Seconds of a decode step that do not depend on the length of the cache.
    per_cached_s
        Seconds per cached token that a decode step reads in a layer.
    late_p90
        90th percentile of measured seconds / predicted seconds; at least 1.
    error_p50
        Median over prompts of the relative error of the predicted median.
    error_max
        Largest relative error of a predicted median.
    basis
        ``measured``, or what the prices were predicted from. Shown wherever the prices are used.
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
    basis: str = field(default=MEASURED, kw_only=True)

    def prefill_s(self, layer_tokens: Sequence[int]) -> float:
        """Predict the seconds to the first token where ``layer_tokens[l]`` tokens enter layer ``l``."""
        prices = (self.overhead_s, self.per_token_s, self.per_pair_s, self.per_stage_s, self.per_scored_s)
        return sum(price * amount for price, amount in zip(prices, prefill_work(layer_tokens), strict=True))

    def decode_s(self, layer_tokens: Sequence[int], answer_tokens: int | None = None) -> float:
        """Predict the seconds of the answer's tokens after the first; ``layer_tokens[l]`` tokens are cached in layer ``l``.

        An answer has ``answer_tokens`` tokens, at least 1; by default as many as the timed ones.
        """
        steps, cached = decode_work(layer_tokens, self.answer_tokens if answer_tokens is None else answer_tokens)
        return self.step_s * steps + self.per_cached_s * cached

    def replan_s(self, layer_tokens: Sequence[int], answer_tokens: int | None = None) -> float:
        """Predict the median seconds of the whole answer. The parameters are those of ``decode_s``."""
        return self.prefill_s(layer_tokens) + self.decode_s(layer_tokens, answer_tokens)

    def late_replan_s(self, layer_tokens: Sequence[int]) -> float:
        """Predict the 90th percentile of the seconds of the whole answer. Latency budgets are compared with it."""
        return self.late_p90 * self.replan_s(layer_tokens)

    def save(self, path: Path) -> None:
        """Write the model to ``path`` as JSON, atomically."""
        write_json_object(path, {"format_version": FORMAT_VERSION, **asdict(self)})

    @classmethod
    def load(cls, path: Path, setting: Setting | None = None) -> "CostModel":
        """Read what ``save`` wrote.

        Parameters
        ----------
        path
            The file.
        setting
            The present setting; ``None`` skips the check.

        Raises
        ------
        CostModelMismatchError
            Where it was measured in another setting; the message names both.
        ValueError
            Where there is no file, or it is of another format.
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
        with reading(path, _REMEDY):
            setting = {**saved.pop("setting")}
            found = cls(Setting(ModelIdentity(**setting.pop("model")), **setting), **saved)
            found.check_numbers()
        return found

    def check_numbers(self) -> None:
        """Raise ``ValueError`` for a price that is no finite number, or is negative, and for an answer without tokens."""
        prices = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in ("setting", "basis")}
        bad = [f"{name}={value!r}" for name, value in prices.items() if not is_finite_number(value) or value < 0]
        bad += [] if isinstance(self.basis, str) else [f"basis={self.basis!r}"]
        if bad or self.answer_tokens < 1:
            raise ValueError(f"{', '.join(bad) or f'answer_tokens={self.answer_tokens}'}: not a value of this kind")


def prefill_work(layer_tokens: Sequence[int]) -> tuple[int, int, int, int, int]:
    """Count the priced work of a prefill: (1, tokens, (query, key) pairs, stages, scored tokens), each summed over layers."""
    scored = [here for here, following in pairwise(layer_tokens) if following < here]
    return 1, sum(layer_tokens), sum(map(causal_pairs, layer_tokens)), len(scored), sum(scored)


def decode_work(layer_tokens: Sequence[int], answer_tokens: int) -> tuple[int, int]:
    """Count the priced work of the decode: (steps, cached tokens read). The second is summed over steps and layers."""
    steps = answer_tokens - 1
    return steps, steps * sum(layer_tokens) + len(layer_tokens) * causal_pairs(steps)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(
            f"there is no cost model at {path}: measure one with `erecap calibrate --cost --out {path}`, or name it with cost=FILE"
        )
    saved = read_json_object(path, _REMEDY)
    version = saved.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {version}, this erecap reads {FORMAT_VERSION}: make it again with `erecap calibrate --cost`"
        )
    return saved
