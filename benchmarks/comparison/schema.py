"""The content of ``summary.json``. Times are in seconds and sizes in bytes; ``null`` stands for a figure that does not exist.

A time is missing where no replan has one, such as the replan latency where no plan could be read. The expert reads no prompt; a
remote model has no layers and no cache that could be measured from here.
"""

from pydantic import BaseModel, ConfigDict

from benchmarks.comparison.metrics import Interval
from planner.horizon import Horizon


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TokenSpread(_Part):
    """Quantiles of a token count over replans."""

    p50: float | None
    """Median, in tokens."""
    p95: float | None
    """95th percentile, in tokens."""
    max: int | None
    """Maximum, in tokens."""


class TimeSpread(_Part):
    """Quantiles of a time over replans."""

    p50: float | None
    """Median, in seconds."""
    p95: float | None
    """95th percentile, in seconds."""


class ByteSpread(_Part):
    """Quantiles of a size over replans."""

    p50: float | None
    """Median, in bytes."""
    max: int | None
    """Maximum, in bytes."""


class EnvSummary(_Part):
    """One backend in one environment of the suite."""

    episodes: int
    """Number of finished episodes."""
    success_rate: float
    """Share of them that succeeded, 0 to 1."""


class BudgetSummary(_Part):
    """Latency budgets over the replans that had one and gave a plan."""

    predicted: float
    """Share of them that the cost model predicted to stay within the budget, 0 to 1."""
    within: float
    """Share of them that stayed within the budget, 0 to 1."""


class LengthSpread(_Part):
    """Quantiles of a plan's length."""

    p50: float | None
    """Median."""
    p90: float | None
    """90th percentile."""
    max: int | None
    """Maximum."""


class ReuseSummary(_Part):
    """What new plans kept of what was left of the old one, over the replans that had such a rest and gave a plan."""

    replans: int
    """Number of these replans."""
    distance_p50: float
    """Median edit distance between rest and new plan (Levenshtein), in lines."""
    distance_mean: float
    """Its mean."""
    lines_p50: float
    """Median share of the new plan's lines that stand in the rest in the same order (longest common subsequence), 0 to 1."""
    lines_mean: float
    """Its mean."""
    words_p50: float
    """The median share of words instead of lines."""
    words_mean: float
    """Its mean."""


class RecoverySummary(_Part):
    """What followed the replans that a failure, a surprise or a changed goal caused."""

    replans: int
    """Number of these replans."""
    recovered: float
    """Share of them after which the episode reached a further subgoal or its end with success, 0 to 1."""
    replans_p50: float | None
    """Median number of plans up to there, the replan's own included; ``None`` where there was no recovery."""
    env_steps_p50: float | None
    """Median number of environment steps up to there, those that pass while the planner thinks included."""


class ReplanSummary(_Part):
    """Why one backend replanned, and what its plans were like."""

    horizon: Horizon
    """How far its plans reach."""
    reasons: dict[str, float]
    """Share of all planner calls by their reason, 0 to 1; ``start`` is the first plan of an episode."""
    forced: float | None
    """Share of failures, surprises and changed goals among the planner calls after the first plan, 0 to 1."""
    plan_lines: LengthSpread
    """Lines of a plan that could be read."""
    plan_tokens: LengthSpread
    """Tokens of an answer; the expert has none."""
    reuse: ReuseSummary | None
    """What new plans kept of the old ones; ``None`` where no replan had a rest of one."""
    recovery: RecoverySummary | None
    """What followed failures, surprises and changed goals; ``None`` where there were none."""
    decode_share: float | None
    """Median share of a replan's time that is decoding after the first token, 0 to 1. A replan that answers an unreadable plan
    counts without the time of that plan."""
    last_prompt_p50: float | None
    """Median length of an episode's last prompt, in tokens."""
    last_prompt_long: float | None
    """Share of episodes whose last prompt is longer than 8,000 tokens, 0 to 1."""
    repeated: float | None
    """Share of plans that equal the plan before them in their episode, 0 to 1."""
    forbidden: int
    """Number of planner calls at which plans were forbidden, because they had been tried and changed nothing."""


class SessionSummary(_Part):
    """What a backend that keeps sessions or drafts its answers saved, over planner calls."""

    reused_share: float | None
    """Median share of a prompt's tokens that were held before it came, over replans after an episode's first plan, 0 to 1."""
    passes: LengthSpread
    """Forward passes of an answer, the one that ends the prompt included."""
    tokens_per_pass: float | None
    """Tokens of all answers by their forward passes."""
    drafted: int
    """Tokens that were drafted in all."""
    accepted: int
    """Those of them that were accepted."""
    accepted_at: tuple[float, ...]
    """Share of drafts of which the first, second, ... token was accepted, of those that were as long, 0 to 1."""
    observe_s: TimeSpread
    """Seconds per replan in which the history was taken in while the agent acted; they are in no latency."""


class ClockSummary(_Part):
    """What thinking cost where the world does not wait for the planner."""

    seconds: TimeSpread
    """Seconds of thinking that the clock counted per replan."""
    steps_share: float
    """Share of all environment steps that passed while the planner thought, 0 to 1."""


class EarlySummary(_Part):
    """What the agent waited for where it carried out the first line of a plan while the planner wrote the rest."""

    wait_s: TimeSpread
    """Seconds from the observation until the agent could act, over replans that gave a plan."""
    rest_s: TimeSpread
    """Seconds that it waited for the rest of the plan after its first line had ended, over plans that were begun early."""
    early_share: float
    """Share of plans that were begun early, 0 to 1."""
    taken_back: int
    """Plans whose first line was carried out, and which then could not be read or began with another line."""


class BackendSummary(_Part):
    """One backend in the closed loop."""

    episodes: int
    """Finished episodes."""
    success_rate: float
    """Share of them that succeeded, 0 to 1."""
    success_ci95: Interval
    """95% Wilson interval of the success rate."""
    subgoal_progress: float
    """Mean share of an episode's subgoals that were reached, 0 to 1."""
    spl: float | None
    """Mean success weighted by path length (SPL), relative to the expert's steps, 0 to 1; ``None`` where no expert played. Steps of
    thinking count as steps."""
    spl_ci95: Interval | None = None
    """95% bootstrap interval of it, over episodes; ``None`` where no expert played, and in older summaries."""
    replans_mean: float
    """Mean number of replans per episode."""
    prompt_tokens: TokenSpread
    """Length of the prompt, in tokens."""
    kept_share: float | None
    """Share of the prompt's tokens that enter a layer, mean over layers and replans, 0 to 1; ``None`` without layers."""
    dropped_tokens: TokenSpread
    """Number of prompt tokens that do not reach the last layer."""
    ttft_s: TimeSpread
    """Time to first token, in seconds: from submitting the prompt until the host knows the first token."""
    replan_s: TimeSpread
    """Replan latency, in seconds: from the observation to the parsed plan, over replans that gave a plan."""
    overhead_s: TimeSpread
    """Part of the replan latency outside the model, in seconds: observation text, prompt, tokenization and parsing."""
    kv_bytes: ByteSpread
    """Size of the prompt's KV cache, in bytes."""
    parse_errors: int
    """Number of answers that could not be parsed as a plan, over all episodes."""
    by_env: dict[str, EnvSummary]
    """Episodes and success by gymnasium id."""
    budget: BudgetSummary | None = None
    """Share of replans within the latency budget; ``None`` for a backend without one."""
    final_share: float | None = None
    """Share of the prompt's tokens that enter the last layer, mean over replans, 0 to 1; ``None`` without layers, in old files."""
    replans: ReplanSummary | None = None
    """Why it replanned and what its plans were like; ``None`` in old files, and for old records, which do not hold the plans."""
    sessions: SessionSummary | None = None
    """What was reused and drafted; ``None`` for a backend that keeps nothing and drafts nothing."""
    clock: ClockSummary | None = None
    """What thinking cost; ``None`` where the world waits."""
    early: EarlySummary | None = None
    """What the agent waited for; ``None`` where it waits for whole plans."""


class PairedSummary(_Part):
    """One backend against the reference: success on the same seeds, speed on the same prompts."""

    episodes: int
    """Number of cases that both have finished."""
    success_diff: float
    """Success rate minus the reference's, over these cases, -1 to 1."""
    success_diff_ci95: Interval
    """95% bootstrap interval of the difference, over cases."""
    spl_diff: float | None
    """SPL minus the reference's, -1 to 1; ``None`` where no expert played."""
    spl_diff_ci95: Interval | None
    """95% bootstrap interval of the difference, over cases; ``None`` where no expert played."""
    prompts: int
    """Number of replayed prompts that both have answered."""
    ttft_speedup_p50: float | None
    """Median over prompts of the ratio of TTFT, reference / backend."""
    replan_speedup_p50: float | None
    """Median over prompts of the ratio of the time for the whole answer, reference / backend."""
    ceiling_p50: float | None
    """Median over prompts of the largest TTFT speedup that the dropped tokens allow, as a ratio."""
    of_ceiling_p50: float | None
    """Median over prompts of measured TTFT speedup / largest possible TTFT speedup."""


class ReplaySummary(_Part):
    """One backend in the paired replay."""

    prompts: int
    """Number of replayed prompts that it has answered."""
    reused_share_p50: float | None
    """Median share of the prompt's tokens that were taken from the KV cache of earlier prompts, 0 to 1; ``None`` for a backend that
    reuses none."""
    ttft_s: TimeSpread
    """Time to first token."""
    total_s: TimeSpread
    """Time for the whole answer."""
    ttft_growth_s: float | None
    """Seconds that TTFT grows by with 1,000 more prompt tokens (least squares over prompts); ``None`` for prompts of one length."""
    forward_passes_p50: float | None
    """Median number of forward passes of an answer; ``None`` in old rows."""
    observe_s_p50: float | None
    """Median of the seconds in which the history was taken in before the replan, in no latency; ``None`` where it was not."""


class Summary(_Part):
    """All figures of a comparison."""

    suite: str
    """Name of the suite."""
    seed: int
    """Number of the run, which selects its block of seeds."""
    complete: bool
    """Whether all episodes and the replay are finished."""
    reference: str
    """Spec string of the backend with which ``paired`` compares the others."""
    backends: dict[str, BackendSummary]
    """Closed-loop figures by spec string, the expert first; backends without a finished episode are left out."""
    paired: dict[str, PairedSummary]
    """Differences from the reference by spec string; backends without a common case are left out."""
    replay: dict[str, ReplaySummary] = {}
    """Figures of the paired replay by spec string; empty without one, and in old files."""
