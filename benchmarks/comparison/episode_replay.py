"""Paired replay of whole episodes, for comparisons with backends that keep keys and values between prompts (``StatefulBackend``).

Each prompt comes after its predecessors, as it did when the episode was played, and all backends answer it in turn (A B A B), each
with its own state. The other backends of the comparison answer the same prompts in the same order.

State. A backend that keeps some forgets it before each episode, so no timed prompt has been answered since. A backend whose
``reset`` left something is refused: it would reuse tokens of an episode's first prompt.

Kernels. Matrix libraries build them for each new shape. A backend that keeps state meets the shapes of an episode in a rehearsal:
it plays the same episode, not timed, and forgets it. No other recorded episode has the same lengths. The other backends answer each
prompt with one token right before they are timed on it, as in ``replay``.

Taking in the history. Where the agent lets backends do so while it acts, a backend that can (``ObservingBackend``) is shown each
prompt as it was before its latest observation, and then asked. As in a run, the seconds are recorded and are in no latency.

Length of the answers. All backends decode as many tokens as the recorded answer has, past any end token. The next prompt goes on
with the recorded answer. A backend whose answer was the same finds it in its cache, as in a real run. One that wrote something else
runs the recorded answer as new tokens. That is slightly against it: in a real run the next prompt goes on with its own answer.

The rows of an episode are written together, so a killed run leaves only whole episodes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agents.append_only import AppendOnlyFile
from agents.recorded_prompts import RecordedPrompt, by_episode
from agents.runner import MakeBackend
from benchmarks.comparison.replay import OnPrompt, ReplayRow, close_last_line, let_observe, measure, measured_rows
from planner import PlannerBackend, Sampling, StatefulBackend

Episode = list[RecordedPrompt]
"""The prompts of one recorded episode, in order."""


def choose_episodes(prompts: Sequence[RecordedPrompt], limit: int) -> list[RecordedPrompt]:
    """Choose whole episodes of all lengths.

    Parameters
    ----------
    prompts : sequence of RecordedPrompt
        All prompts of some episodes, those of each episode in order.
    limit : int
        Number of prompts to stay within. One episode is chosen even if it has more.

    Returns
    -------
    list of RecordedPrompt
        All prompts of the chosen episodes, episode by episode. The episodes are evenly spaced in the list sorted by the longest
        prompt: the longest first, the shortest last.
    """
    episodes = sorted(by_episode(prompts), key=lambda e: (max(p.prompt_tokens for p in e), e[0].env_id, e[0].seed))
    for count in range(len(episodes), 0, -1):
        chosen = [episodes[i] for i in np.linspace(len(episodes) - 1, 0, count).round().astype(int)]
        if count == 1 or sum(map(len, chosen)) <= limit:
            return [prompt for episode in chosen for prompt in episode]
    return []


def replay_episodes(
    prompts: Sequence[RecordedPrompt],
    backends: Sequence[str],
    make_backend: MakeBackend,
    path: Path,
    decoded_tokens: int,
    on_prompt: OnPrompt = lambda: None,
    observe: bool = False,
) -> list[ReplayRow]:
    """Measure whole episodes on each backend. Those that the file has for all backends are skipped.

    Parameters
    ----------
    prompts : sequence of RecordedPrompt
        All prompts of the episodes, those of each episode in order.
    backends : sequence of str
        Spec strings.
    make_backend : MakeBackend
        Makes a backend from its spec string.
    path : Path
        The ``replay.jsonl`` that rows are appended to.
    decoded_tokens : int
        Tokens to decode per prompt where the length of the recorded answer is not known.
    on_prompt : callable, optional
        Called once per prompt when all backends are measured, also for skipped prompts.
    observe : bool
        Whether backends that can take in the history before they are asked.

    Returns
    -------
    list of ReplayRow
        One per prompt; rows from the file come first.

    Raises
    ------
    ValueError
        For a malformed file, and for a backend that reuses tokens after ``reset``. Errors of the backends are passed on.
    """
    found = {row.key: row for row in measured_rows(prompts, backends, path)}
    finished: list[Episode] = []
    todo: list[Episode] = []
    for episode in by_episode(prompts):
        (finished if all(p.key in found for p in episode) else todo).append(episode)
    rows = [found[prompt.key] for episode in finished for prompt in episode]
    for _ in rows:
        on_prompt()
    if not todo:
        return rows
    with AppendOnlyFile(path) as file:
        close_last_line(path, file)
        players = _Players({spec: make_backend(spec) for spec in backends}, decoded_tokens, observe)
        players.warm_up(todo)
        for episode in todo:
            measured = players.play(episode, on_prompt)
            file.append(b"".join(row.line for row in measured))
            rows += measured
    return rows


@dataclass(frozen=True)
class _Players:
    """The backends of a replay and how they are asked; the fields are as in ``replay_episodes``."""

    backends: Mapping[str, PlannerBackend]
    decoded_tokens: int
    observe: bool

    @property
    def stateful(self) -> list[StatefulBackend]:
        return [backend for backend in self.backends.values() if isinstance(backend, StatefulBackend)]

    def warm_up(self, episodes: Sequence[Episode]) -> None:
        """Let each backend without state answer the longest prompt; the others rehearse every episode."""
        longest = max((prompt for episode in episodes for prompt in episode), key=lambda p: p.prompt_tokens)
        for backend in self.backends.values():
            if not isinstance(backend, StatefulBackend):
                backend.generate(longest.prompt, self._sampling(longest))

    def play(self, episode: Episode, on_prompt: OnPrompt) -> list[ReplayRow]:
        """Measure the prompts of an episode in order."""
        for backend in self.stateful:
            self._rehearse(backend, episode)
        rows: list[ReplayRow] = []
        for prompt in episode:
            rows.append(measure(prompt, self.backends, self._sampling(prompt), self.observe))
            if len(rows) == 1:
                _check_fresh(rows[0])
            on_prompt()
        for backend in self.stateful:
            backend.reset()  # frees its memory for the next one's rehearsal
        return rows

    def _rehearse(self, backend: StatefulBackend, episode: Episode) -> None:
        """Play an episode without timing it, and forget it."""
        backend.reset()
        for prompt in episode:
            if self.observe:
                let_observe(backend, prompt)
            backend.generate(prompt.prompt, self._sampling(prompt))
        backend.reset()

    def _sampling(self, prompt: RecordedPrompt) -> Sampling:
        return Sampling(max_new_tokens=prompt.answer_tokens or self.decoded_tokens, ignore_eos=True)


def _check_fresh(first: ReplayRow) -> None:
    """Refuse a backend that began an episode with something in its cache."""
    for spec, measured in first.measured.items():
        if measured.reused_tokens:
            raise ValueError(
                f"backend {spec!r} reused {measured.reused_tokens} tokens of the first prompt of an episode, so its times leave "
                "out work: its reset() must forget all earlier prompts; or leave the paired replay out (--replay-prompts 0)"
            )
