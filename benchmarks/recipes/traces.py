"""A recorded episode as a trace of tokens (``erecap.profiling.replan_trace``), for measurements on other models."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from agents.recorded_prompts import RecordedPrompt, by_episode
from benchmarks.backends.registry import choose_reference
from benchmarks.runs.closed_loop import STEPS_FILE
from benchmarks.runs.records import RunRecords
from benchmarks.runs.suites import Case
from erecap.backend import encode_prompt
from erecap.models.loading import LoadedModel
from erecap.models.tokenization import ChatTokenizer, TokenizedPrompt
from erecap.profiling.replan_trace import PromptPart, ReplanTrace, TracedReplan, spans_of
from planner.prompt import before_observation


def episode_to_trace(run: Path, seed: int | None) -> tuple[str, list[RecordedPrompt]]:
    """Choose one recorded episode: the one with this seed, else the one whose last prompt is longest. Successes come first.

    Returns
    -------
    tuple
        The backend that planned it, and its prompts.

    Raises
    ------
    ValueError
        For a run without episodes, or without this one.
    """
    records = RunRecords.read(run / STEPS_FILE)
    name = choose_reference(list(records.backends))
    episodes = by_episode(records.backends[name].prompts if records.backends else [])
    chosen = [prompts for prompts in episodes if seed in (None, prompts[0].seed)]
    if not chosen:
        seeds = sorted({prompts[0].seed for prompts in episodes})
        raise ValueError(f"{run} has no finished episode{'' if seed is None else f' of seed {seed}'}: its seeds are {seeds}")
    succeeded = {case for case, episode in records.backends[name].episodes.items() if episode.success}
    return name, max(chosen, key=lambda prompts: (_case(prompts[0]) in succeeded, _length(prompts[-1])))


def _case(recorded: RecordedPrompt) -> Case:
    return Case(recorded.env_id, recorded.seed)


def _length(recorded: RecordedPrompt) -> int:
    return sum(len(segment.text) for segment in recorded.prompt.segments)


def trace_of(backend: str, prompts: Sequence[RecordedPrompt], loaded: LoadedModel) -> ReplanTrace:
    """Make the trace of an episode's replans, by the tokenizer of ``loaded``; ``backend`` planned it.

    Raises
    ------
    ValueError
        For a history that did not only grow, and a model without an end token.
    """
    chat = ChatTokenizer(loaded.tokenizer)
    end = chat.tokenizer.eos_token_id
    if end not in loaded.eos_ids:
        raise ValueError(f"the tokenizer's end token {end} ends no answer of the model: name the model that planned the episode")
    last = encode_prompt(chat, prompts[-1].prompt)
    first = prompts[0]
    return ReplanTrace(
        f"{first.env_id}, seed {first.seed}, planned by {backend}: {len(prompts)} replans, last prompt {len(last)} tokens",
        tuple(last.input_ids.tolist()),
        last.segment_ends,
        tuple(sorted(chat.line_breaks())),
        tuple(sorted(loaded.eos_ids)),
        tuple(_replan(chat, prompt, last, end) for prompt in prompts),
    )


def _replan(chat: ChatTokenizer, recorded: RecordedPrompt, last: TokenizedPrompt, end: int) -> TracedReplan:
    before = before_observation(recorded.prompt)
    observed = None if before is None else _part(encode_prompt(chat, before).without_header(), last)
    draft = (*chat.data_tokens(recorded.prompt.draft).tolist(), end) if recorded.prompt.draft else ()
    return TracedReplan(
        observed, _part(encode_prompt(chat, recorded.prompt), last), draft, (*chat.data_tokens(recorded.answer).tolist(), end)
    )


def _part(prompt: TokenizedPrompt, last: TokenizedPrompt) -> PromptPart:
    """Describe a prompt as a beginning of the last one. Raise ``ValueError`` where it is none."""
    if not np.array_equal(last.input_ids[: len(prompt)], prompt.input_ids):
        raise ValueError(
            f"a prompt of {len(prompt)} tokens is not the beginning of the last one: the history was rewritten, or another "
            "tokenizer wrote it; choose another episode"
        )
    return PromptPart(len(prompt), len(prompt.segment_ends), spans_of(prompt.protected))
