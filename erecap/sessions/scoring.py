"""Likelihoods of whole answers to the last prompt of a session."""

from collections.abc import Sequence

from torch import Tensor
from transformers import PreTrainedModel

from erecap.engine.decode import DecodeOptions
from erecap.engine.scoring import score_answers
from erecap.models.architecture import decoder_parts
from erecap.sessions.session import ReplanSession


def score_in_session(model: PreTrainedModel, session: ReplanSession, answers: Sequence[Sequence[int]]) -> Tensor:
    """Compute the log-likelihood of each answer to the prompt that a session took in last. The session is left as it was.

    Parameters
    ----------
    model
        The session's model.
    session
        The session.
    answers
        The answers, at least one token each, their end tokens included.

    Returns
    -------
    Tensor
        As ``score_answers`` returns it.

    Raises
    ------
    ContextLengthError
        Where prompt and answer exceed the model's positions.
    ValueError
        For a session without a prompt, and as ``score_answers`` raises it.
    """
    start, held = session.begin_answer(DecodeOptions(max(map(len, answers))))
    held.crop(len(start.prompt))
    cache = held.cache
    return score_answers(decoder_parts(model), cache.store, cache.layer_tokens, start.logits[:1], len(start.prompt), answers)
