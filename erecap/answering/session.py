"""Sessions as a backend: the keys and values of a prompt stay for the next one, so that a replan costs what is new."""

from collections.abc import Callable
from functools import partial

from erecap.answering.local import Cost, LocalBackend
from erecap.calibration.chooser import ChosenSchedule
from erecap.engine.selector_protocol import Selector
from erecap.models.answers import TimedAnswer
from erecap.models.loading import LoadedModel
from erecap.models.tokenization import TokenizedPrompt
from erecap.schedule import PruneSchedule
from erecap.sessions import ReplanSession
from erecap.sessions.store import SessionStore
from planner.backend import Sampling
from planner.prompt import Prompt


class SessionBackend(LocalBackend):
    """A backend that keeps a session for each agent that it plans for (``erecap.sessions``).

    Parameters
    ----------
    loaded
        The model and its tokenizer.
    schedule
        Where tokens are dropped and how many, by a rule that sessions take; the empty schedule gives a prefix cache.
    selector
        Scores the tokens at the stages.
    trim
        Shortens the text of a prompt before it is tokenized.
    budget_bytes
        Most bytes of keys and values of all sessions together.

    Raises
    ------
    ValueError
        For a schedule or a selector that a session cannot follow, and for a budget that is not positive.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        schedule: PruneSchedule,
        selector: Selector | None = None,
        trim: Callable[[Prompt], Prompt] | None = None,
        budget_bytes: int = 2**31,
    ) -> None:
        super().__init__(loaded, trim)
        self.schedule, self.selector = schedule, selector
        make = partial(ReplanSession, loaded.model, schedule, selector)
        make()  # refuses a schedule or selector that sessions cannot follow now, not at the first prompt
        self.sessions = SessionStore(make, budget_bytes, by_turns=bool(schedule.stages))

    def reset(self) -> None:
        """Forget all sessions."""
        self.sessions.reset()

    def _run(self, tokenized: TokenizedPrompt, sampling: Sampling, answer: TimedAnswer) -> Cost:
        session, made = self.sessions.extend(tokenized)
        for token in session.plan(self.decode_options(sampling, self.ban(sampling))):
            answer.put(token)
        chosen = ChosenSchedule(self.schedule, self.selector)
        return Cost(made.layer_tokens, self._survivors(made.layer_tokens), made.kv_bytes, chosen, made.reused_tokens)

    def _survivors(self, layer_tokens: tuple[int, ...]) -> tuple[int, ...]:
        """Read the tokens behind each stage from those that the next layer holds."""
        return tuple(layer_tokens[layer + 1] for layer in self.schedule.layers if layer + 1 < len(layer_tokens))
