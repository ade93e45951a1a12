"""Answers in a format: the world's grammar as a ban of tokens, and as lines to choose from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from erecap.engine.decode import Banned, Chooser, DecodeOptions, TokenBan
from erecap.models.grammar_masks import GrammarMask, literal, one_of
from planner.backend import Sampling
from planner.grammar import AnswerFormat, Form, PlanGrammar
from planner.lines import plan_line


def expression_of(grammar: PlanGrammar) -> str:
    """Write the plans of a grammar as one regular expression: at least one line, a line break between two, maybe one at the end."""
    line = one_of([_form(form) for form in grammar.written])
    if grammar.numbers:
        line = rf"(?:{one_of([str(number) for number in grammar.numbers])}\. )?{line}"
    return rf"(?:{line}\n)*{line}\n?"


def _form(form: Form) -> str:
    return "".join(one_of([literal(text) for text in part]) for part in form)


def grammar_for(sampling: Sampling, answer_format: AnswerFormat) -> PlanGrammar | None:
    """Return the grammar of an answer; ``None`` where it is free, and where a fixed number of tokens is decoded for its time.

    Raises
    ------
    ValueError
        Where the format needs a grammar and there is none, or no line to choose.
    """
    if answer_format == "free" or sampling.ignore_eos:
        return None
    grammar = sampling.grammar
    if grammar is None or (answer_format == "choice" and not grammar.choices):
        raise ValueError(
            f"format={answer_format} needs the lines that a plan can have, and this world does not tell them: let it list its "
            "actions (info['valid_actions'], or grammar() of a world of your own), or use format=free"
        )
    return grammar


@dataclass(frozen=True)
class LinesBan:
    """The ban of all tokens that leave a grammar, and of those that begin what is to be avoided.

    Where a grammar leaves nothing but what is to be avoided, that is written: an answer that can be read comes first.

    Attributes
    ----------
    mask
        The mask of the grammar.
    avoided
        The ban of beginnings; ``None`` for none.
    """

    mask: GrammarMask
    avoided: TokenBan | None = None

    def __call__(self, tokens: Sequence[int]) -> Banned:
        """Return the banned tokens as a mask (``TokenBan``)."""
        mask = self.mask(tokens)
        if self.avoided is None:
            return mask
        both = mask.copy()
        both[list(self.avoided(tokens))] = True
        return mask if both.all() else both


def lines_to_choose(grammar: PlanGrammar, avoid: Sequence[str]) -> list[str]:
    """List the lines that can be chosen, without those to be avoided as long as any other is left."""
    tried = {plan_line(text) for text in avoid}
    return [line for line in grammar.choices if plan_line(line) not in tried] or list(grammar.choices)


Encode = Callable[[str], NDArray[np.int64]]
"""Turns the text of an answer into tokens."""


def with_end(lines: Sequence[str], encode: Encode, end: int) -> list[list[int]]:
    """Turn lines into whole answers: their tokens and the one that ends an answer."""
    return [[*encode(line).tolist(), end] for line in lines]


def choose_answer(sums: Tensor, answers: Sequence[Sequence[int]], options: DecodeOptions) -> tuple[int, float]:
    """Choose one of several answers: the one with the best score, or one that is drawn.

    The score is the mean log-likelihood of an answer's tokens, its end token included (length-normalised, as GPT-3's evaluation
    chose among answers, arXiv 2005.14165). Lines differ in length, and each token costs a model that was not trained on them some
    likelihood: sums favour ``drop`` over ``put red ball next to blue box in kitchen``.

    Parameters
    ----------
    sums
        Log-likelihood of each answer in nats, float32 ``(answers,)``.
    answers
        Their tokens.
    options
        ``temperature`` and ``seed`` of the choice.

    Returns
    -------
    tuple of int and float
        Index of the answer, and its score.
    """
    scores = sums / torch.tensor([len(answer) for answer in answers])
    chosen = int(Chooser(options, scores[None])(scores[None]))
    return chosen, float(scores[chosen])
