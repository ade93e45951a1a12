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


@dataclass(frozen=True)
class LineChoices:
    """The lines to choose from, as answers of a model that may go on after its line.

    A planner that writes plans of several lines seldom ends after the first. So a line counts with both that may follow it: the
    end of the answer, and a line break.

    Attributes
    ----------
    ended
        Each line's tokens and the token that ends an answer.
    going_on
        Tokens of each line with a line break.
    """

    ended: list[list[int]]
    going_on: list[list[int]]

    @classmethod
    def of(cls, lines: Sequence[str], encode: Encode, end: int) -> "LineChoices":
        """Turn lines into answers; ``end`` is the token that ends one."""
        return cls([[*encode(line).tolist(), end] for line in lines], [encode(f"{line}\n").tolist() for line in lines])

    @property
    def answers(self) -> list[list[int]]:
        """All answers: those that end, then those that go on."""
        return [*self.ended, *self.going_on]

    def choose(self, sums: Tensor, options: DecodeOptions) -> tuple[int, float]:
        """Choose one of the lines: the one with the best score, or one that is drawn.

        The score is the log-likelihood of a line with either end, over the number of its tokens with the end (length-normalised, as
        GPT-3's evaluation chose among answers, arXiv 2005.14165). Lines differ in length, and each token costs a model that was not
        trained on them some likelihood: sums favour ``drop`` over ``put red ball next to blue box in kitchen``.

        Parameters
        ----------
        sums
            Log-likelihood of each answer of ``answers`` in nats, float32 ``(2 * lines,)``.
        options
            ``temperature`` and ``seed`` of the choice.

        Returns
        -------
        tuple of int and float
            Index of the line, and its score.
        """
        scores = torch.logsumexp(sums.view(2, -1), dim=0) / torch.tensor([len(answer) for answer in self.ended])
        chosen = int(Chooser(options, scores[None])(scores[None]))
        return chosen, float(scores[chosen])
