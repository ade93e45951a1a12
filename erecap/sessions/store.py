"""Sessions of several agents, within a budget of memory.

A prompt goes on in the session with which it has the most tokens in common, if these are more than half of what the session holds.
Else it belongs to another agent, or begins a new episode, and gets a session of its own. Sessions used least lately are evicted.

A pruned session depends on the turns in which its prompt grew: what was protected when a token ran was seen in full. So the store
keeps the turns of evicted sessions, as token ids and flags, and a prompt that goes on with one has it rebuilt turn by turn.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from erecap.models.tokenization import TokenizedPrompt
from erecap.sessions.session import Extension, ReplanSession

_REMEMBERED = 256
"""Most sessions, evicted ones included, of which the turns are kept."""


@dataclass
class Kept:
    """One agent's session, or what is needed to rebuild it.

    Attributes
    ----------
    session
        The session; ``None`` while it is evicted.
    turns
        The prompts that it has taken in since it was empty. Only the last one for a session without stages.
    """

    session: ReplanSession | None
    turns: list[TokenizedPrompt] = field(default_factory=list)

    @property
    def tokens(self) -> NDArray[np.int64]:
        """Ids of the tokens that are held, or that would be."""
        if self.session is not None:
            return self.session.tokens
        return self.turns[-1].input_ids if self.turns else np.zeros(0, np.int64)


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

    def extend(self, prompt: TokenizedPrompt, draft: Sequence[int] = ()) -> tuple[ReplanSession, Extension]:
        """Take a prompt into its session.

        Parameters
        ----------
        prompt
            The prompt.
        draft
            First tokens of the answer, to be run with it (``ReplanSession.extend``).

        Returns
        -------
        tuple of ReplanSession and Extension
            The session, ready to ``plan``, and what it did. A rebuilt session has reused nothing.
        """
        kept = self._find(prompt)
        rebuilt = kept.session is None
        session = kept.session or self._rebuild(kept)
        made = session.extend(prompt, draft)
        kept.turns = [*(kept.turns if self._by_turns else ()), prompt]
        self._evict(kept)
        return session, (Extension(len(prompt), 0, made.layer_tokens, made.kv_bytes, made.logits) if rebuilt else made)

    def held_of(self, prompt: TokenizedPrompt) -> int:
        """Count the first tokens of a prompt that one of the sessions holds."""
        return max((common_prefix(kept.tokens, prompt.input_ids) for kept in self._kept if kept.session is not None), default=0)

    def _find(self, prompt: TokenizedPrompt) -> Kept:
        """Find the session that the prompt goes on with, or make one, and move it to the end of the list."""
        found, shared = None, 0
        for kept in self._kept:
            held = kept.tokens
            common = common_prefix(held, prompt.input_ids)
            if common > shared and 2 * common > len(held):
                found, shared = kept, common
        if found is None:
            found = Kept(self._make())
        else:
            self._kept.remove(found)
        self._kept.append(found)
        return found

    def _rebuild(self, kept: Kept) -> ReplanSession:
        self.rebuilt += 1
        kept.session = self._make()
        for turn in kept.turns if self._by_turns else ():
            kept.session.extend(turn)
        return kept.session

    def _evict(self, in_use: Kept) -> None:
        """Free the sessions used least lately until the others fit the budget."""
        for kept in self._kept:
            if self.kv_bytes <= self._budget:
                break
            if kept is not in_use and kept.session is not None:
                kept.session = None
                self.evicted += 1
        del self._kept[: max(0, len(self._kept) - _REMEMBERED)]


def common_prefix(first: NDArray[np.int64], second: NDArray[np.int64]) -> int:
    """Count the tokens that both rows begin with."""
    length = min(len(first), len(second))
    differ = np.flatnonzero(first[:length] != second[:length])
    return int(differ[0]) if len(differ) else length
