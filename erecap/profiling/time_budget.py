"""The time that a measurement may take, and how long the next prefill will take."""

from collections.abc import Sequence
from time import perf_counter

from transformers import PretrainedConfig

from erecap.calibration.flops import prefill_flops


class TimeBudget:
    """A number of seconds that started to pass, and the rate of prefills measured so far.

    Parameters
    ----------
    config
        The model's config.
    seconds
        Seconds that the measurement may take from now on.
    flops_per_s
        A first guess of the rate of a prefill, in FLOP/s.
    """

    def __init__(self, config: PretrainedConfig, seconds: float, flops_per_s: float) -> None:
        self._config, self._end, self._flops_per_s = config, perf_counter() + seconds, flops_per_s

    @property
    def left_s(self) -> float:
        """Seconds that are left; negative when the time is over."""
        return self._end - perf_counter()

    def predict_s(self, layer_tokens: Sequence[int]) -> float:
        """Predict the seconds of a prefill in which ``layer_tokens[l]`` tokens enter layer ``l``."""
        return sum(prefill_flops(self._config, layer_tokens)) / self._flops_per_s

    def predict_baseline_s(self, prompt_tokens: int) -> float:
        """Predict the seconds of a prefill without pruning."""
        return self.predict_s([prompt_tokens] * self._config.num_hidden_layers)

    def learn(self, layer_tokens: Sequence[int], seconds: float) -> None:
        """Take the rate from a prefill that took ``seconds``."""
        self._flops_per_s = sum(prefill_flops(self._config, layer_tokens)) / seconds
