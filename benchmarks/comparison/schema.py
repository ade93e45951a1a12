"""``summary.json``. Times in seconds, sizes in bytes; ``null`` where a figure does not exist for a backend."""

from pydantic import BaseModel, ConfigDict

Interval = tuple[float, float]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TokenSpread(_Part):
    """Quantiles of a token count over replans."""

    p50: float
    p95: float
    max: int


class TimeSpread(_Part):
    """Quantiles of a time over replans."""

    p50: float
    p95: float


class ByteSpread(_Part):
    """Quantiles of a size over replans."""

    p50: float
    max: int


class EnvSummary(_Part):
    """One backend in one environment of the suite."""

    episodes: int
    success_rate: float


class BudgetSummary(_Part):
    """Replans under a latency budget: shares of those that could be read that were predicted to keep it, and that did."""

    predicted: float
    within: float


class BackendSummary(_Part):
    """The closed loop of one backend. ``dropped_tokens``: prompt tokens that do not reach the last layer."""

    episodes: int
    success_rate: float
    success_ci95: Interval
    subgoal_progress: float
    spl: float
    replans_mean: float
    prompt_tokens: TokenSpread
    kept_share: float
    dropped_tokens: TokenSpread
    ttft_s: TimeSpread
    replan_s: TimeSpread
    overhead_s: TimeSpread
    kv_bytes: ByteSpread
    parse_errors: int
    by_env: dict[str, EnvSummary]
    budget: BudgetSummary | None = None


class PairedSummary(_Part):
    """One backend against the reference: success on the same seeds, speed on the same prompts (medians of per-prompt ratios)."""

    episodes: int
    success_diff: float
    success_diff_ci95: Interval
    spl_diff: float
    spl_diff_ci95: Interval
    prompts: int
    ttft_speedup_p50: float | None
    replan_speedup_p50: float | None
    ceiling_p50: float | None
    of_ceiling_p50: float | None


class Summary(_Part):
    """All of it. ``reference`` is the backend that ``paired`` compares with; ``complete`` is false after an interrupted run."""

    suite: str
    seed: int
    complete: bool
    reference: str
    backends: dict[str, BackendSummary]
    paired: dict[str, PairedSummary]
