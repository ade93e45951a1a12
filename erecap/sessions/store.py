"""Sessions of several agents, within a budget of memory.

A prompt goes on in the session with which it has the most tokens in common, if these are more than half of what the session holds.
Else it belongs to another agent, or begins a new episode, and gets a session of its own. Sessions used least lately are evicted.

A pruned session depends on the turns in which its prompt grew: what was protected when a token ran was seen in full. So the store
keeps the turns of evicted sessions, as token ids and flags, and a prompt that goes on with one has it rebuilt turn by turn, the
tokens of the answers included. For the same reason a prompt goes on with a pruned session only if it shares all messages of the
first prompt that the session answered: two agents share the system text, which may be more than half of a short prompt.

A call that breaks off leaves its session evicted, so that the next one rebuilds it. A new session is then forgotten.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from erecap.models.tokenization import TokenizedPrompt
from erecap.sessions.reuse import common_prefix
from erecap.sessions.session import Extension, ReplanSession
from erecap.sessions.start import followed_by

_REMEMBERED = 256
"""Most sessions, evicted ones included, of which the turns are kept."""


@dataclass(eq=False)
class Kept:
    """One agent's session, or what is needed to rebuild it.

    Attributes
    ----------
    session
        The session; ``None`` while it is evicted.
    turns
        The prompts that it has taken in since it was empty, each again with its answer. Only the last prompt for a session without
        stages.
    """

    session: ReplanSession | None
    turns: list[TokenizedPrompt] = field(default_factory=list)

    @property
    def tokens(self) -> NDArray[np.int64]:
        """Ids of the tokens that are held, or that would be."""
        if self.session is not None:
            return self.session.tokens
        return self.turns[-1].input_ids if self.turns else np.zeros(0, np.int64)

    def begins(self, prompt: TokenizedPrompt) -> bool:
        """Tell whether a prompt begins with all messages of the first prompt that was answered."""
        first = next((turn for turn in self.turns if turn.segment_ends[-1:] != (len(turn),)), self.turns[-1])
        messages = first.input_ids[: first.segment_ends[-1] if first.segment_ends else len(first)]
        return common_prefix(messages, prompt.input_ids) == len(messages)

    def note_answer(self) -> None:
        """Add the last prompt once more with the tokens of its answer, which the session holds in full until the next prompt."""
        if self.session is None or not self.turns:
            return
        held, last = self.session.tokens, self.turns[-1]
        if len(held) > len(last):
            self.turns.append(followed_by(last, held[len(last) :].tolist()))


class SessionStore:
    """The sessions of all agents of one backend.

    Parameters
    ----------
    make
        Makes an empty session.
    budget_bytes
        Most bytes of keys and values of all sessions together. The session in use stays, even if it is larger.
    by_turns
        Whether a session depends on the turns in which its prompt grew, as a pruned one does.

    Raises
    ------
    ValueError
        For a budget that is not positive.
    """

    def __init__(self, make: Callable[[], ReplanSession], budget_bytes: int, by_turns: bool) -> None:
        if budget_bytes <= 0:
            raise ValueError(f"a KV budget of {budget_bytes} bytes holds no session: give a positive number")
        self._make, self._budget, self._by_turns = make, budget_bytes, by_turns
        self._kept: list[Kept] = []  # used least lately first
        self.evicted = self.rebuilt = 0

    @property
    def kv_bytes(self) -> int:
        """Bytes of keys and values held by all sessions."""
        return sum(kept.session.kv_bytes for kept in self._kept if kept.session is not None)

    def __len__(self) -> int:
        """Count the sessions that are held."""
        return sum(kept.session is not None for kept in self._kept)

    def reset(self) -> None:
        """Forget all sessions and free their caches."""
        self._kept.clear()

    def extend(
        self, prompt: TokenizedPrompt, draft: Sequence[int] = (), in_use: Sequence[ReplanSession] = ()
    ) -> tuple[ReplanSession, Extension]:
        """Take a prompt into its session.

        Parameters
        ----------
        prompt
            The prompt.
        draft
            First tokens of the answer, to be run with it (``ReplanSession.extend``).
        in_use
            Other sessions that are not to be evicted now, nor to be taken over by this prompt where a new one does as well.

        Returns
        -------
        tuple of ReplanSession and Extension
            The session, ready to ``plan``, and what it did. A rebuilt session has reused nothing.
        """
        kept = self._find(prompt, in_use) or Kept(self._make())
        rebuilt = kept.session is None
        self._note_answer(kept)
        session, kept.session = kept.session or self._rebuilt(kept), None  # evicted if the call breaks off
        made = session.extend(prompt, draft)
        kept.session, kept.turns = session, [*(kept.turns if self._by_turns else ()), prompt]
        self._kept = [*(other for other in self._kept if other is not kept), kept]
        self._evict([session, *in_use])
        return session, (Extension(len(prompt), 0, made.layer_tokens, made.kv_bytes, made.logits) if rebuilt else made)

    def session_of(self, prompt: TokenizedPrompt, in_use: Sequence[ReplanSession] = ()) -> ReplanSession | None:
        """Return the session that ``extend`` would take a prompt into; ``None`` for a new one and for one that is evicted."""
        kept = self._find(prompt, in_use)
        return None if kept is None else kept.session

    def full_of(self, sessions: Sequence[ReplanSession]) -> bool:
        """Tell whether these sessions alone fill the budget."""
        return sum(session.kv_bytes for session in sessions) >= self._budget

    def held_of(self, prompt: TokenizedPrompt) -> int:
        """Count the first tokens of a prompt that one of the sessions holds."""
        return max((common_prefix(kept.tokens, prompt.input_ids) for kept in self._kept if kept.session is not None), default=0)

    def _find(self, prompt: TokenizedPrompt, in_use: Sequence[ReplanSession]) -> Kept | None:
        """Find the session that the prompt goes on with. A prefix cache in use is left alone: a new one answers the same."""
        known = [kept for kept in self._kept if (kept.begins(prompt) if self._by_turns else kept.session not in in_use)]
        row = goes_on_with([kept.tokens for kept in known], prompt.input_ids)
        return None if row is None else known[row]

    def _rebuilt(self, kept: Kept) -> ReplanSession:
        """Make the session of ``kept`` again."""
        self.rebuilt += 1
        session = self._make()
        for turn in kept.turns if self._by_turns else ():
            session.extend(turn)
        return session

    def _note_answer(self, kept: Kept) -> None:
        if self._by_turns:
            kept.note_answer()

    def _evict(self, in_use: Sequence[ReplanSession]) -> None:
        """Free the sessions used least lately until the others fit the budget."""
        for kept in self._kept:
            if self.kv_bytes <= self._budget:
                break
            if kept.session is not None and kept.session not in in_use:
                self._note_answer(kept)
                kept.session = None
                self.evicted += 1
        del self._kept[: max(0, len(self._kept) - _REMEMBERED)]


def goes_on_with(held: Sequence[NDArray[np.int64]], prompt: NDArray[np.int64]) -> int | None:
    """Find the tokens that a prompt goes on with: those of which it begins with the most, if that is more than half of them.

    Parameters
    ----------
    held
        Ids of the tokens of each session, each int64 ``(tokens,)``.
    prompt
        Ids of the prompt's tokens, int64 ``(n,)``.

    Returns
    -------
    int or None
        Index into ``held``; ``None`` where the prompt goes on with none.
    """
    shared = [common_prefix(tokens, prompt) for tokens in held]
    close = [row for row, tokens in enumerate(held) if 2 * shared[row] > len(tokens)]
    return max(close, key=lambda row: shared[row], default=None)
