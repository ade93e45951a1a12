"""Likelihoods of whole answers to one prompt: how likely the model is to write each of several lines.

The prompt is prefilled once. The answers are then run in one pass behind its cache, as one tree: what several begin with is run
once, and each token attends to the prompt and to the tokens before it in its own answer (tree attention, as SpecInfer, arXiv
2305.09781, verifies several drafts). So the keys and values of the prompt are read and never copied.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache

from erecap.engine.prefill import run_layer
from erecap.models.architecture import DecoderParts, check_length
from erecap.models.grouped_attention import heads_grouped
from erecap.models.kv_cache import trim
from erecap.models.masks import attention_mask

MOST_TOGETHER = 1024
"""About the most tokens of answers that are run in one pass; more answers take further passes."""
_ROWS = 64  # tokens whose logits are in memory at a time


@dataclass
class AnswerTree:
    """Answers as a tree of tokens. The last token of an answer is predicted and not run, so it is no node.

    Attributes
    ----------
    tokens
        Token of each node; a node comes after its parent.
    parents
        Node before each one; -1 behind the prompt.
    depths
        Nodes above each one.
    steps
        What is predicted: for each answer the node before each token (-1 for the prompt), and the token.
    """

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    steps: list[list[tuple[int, int]]] = field(default_factory=list)

    @classmethod
    def of(cls, answers: Sequence[Sequence[int]]) -> "AnswerTree":
        """Make the tree of some answers, each of at least one token."""
        tree, known = cls(), dict[tuple[int, int], int]()
        for answer in answers:
            node, steps = -1, list[tuple[int, int]]()
            for place, token in enumerate(answer):
                steps.append((node, token))
                if place + 1 < len(answer):
                    node = known.setdefault((node, token), len(tree.tokens))
                    tree._add(node, token, steps[-1][0])
            tree.steps.append(steps)
        return tree

    def _add(self, node: int, token: int, parent: int) -> None:
        if node == len(self.tokens):
            self.tokens.append(token)
            self.parents.append(parent)
            self.depths.append(0 if parent < 0 else self.depths[parent] + 1)

    def visible(self) -> NDArray[np.bool_]:
        """Return which nodes each node attends to, itself and those above it: bool ``(nodes, nodes)``."""
        seen = np.eye(len(self.tokens), dtype=np.bool_)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                seen[node] |= seen[parent]
        return seen


@torch.inference_mode()
def score_answers(
    parts: DecoderParts,
    cache: DynamicCache,
    layer_tokens: Sequence[int],
    logits: Tensor,
    position: int,
    answers: Sequence[Sequence[int]],
) -> Tensor:
    """Compute the log-likelihood of each answer to one prompt.

    Parameters
    ----------
    parts
        The model's modules.
    cache
        Keys and values of the prompt, one row, pruned or not. It is left as it was.
    layer_tokens
        Tokens that each layer holds.
    logits
        Logits behind the prompt, float32 ``(1, vocab)``.
    position
        Position of the first token of an answer: the prompt's length before pruning.
    answers
        The answers, at least one token each, their end tokens included.

    Returns
    -------
    Tensor
        Sum of the log-probabilities of each answer's tokens in nats, float32 ``(answers,)``, on the host.

    Raises
    ------
    ContextLengthError
        Where prompt and answer exceed the model's positions.
    ValueError
        For a model with flash attention, which takes no masks.
    """
    check_length(parts.config, position, max(map(len, answers)))
    first = torch.log_softmax(logits[0], dim=-1)
    made = []
    for group in _groups(answers):
        tree = AnswerTree.of(group)
        made += _scores(tree, first, _log_probabilities(parts, cache, layer_tokens, position, tree))
        for layer, held in enumerate(layer_tokens):
            trim(cache, layer, held)
    return parts.agree(torch.stack(made)).cpu()


def _groups(answers: Sequence[Sequence[int]]) -> Iterator[list[Sequence[int]]]:
    """Cut answers into groups of about ``MOST_TOGETHER`` tokens, in order."""
    group, tokens = list[Sequence[int]](), 0
    for answer in answers:
        if group and tokens + len(answer) > MOST_TOGETHER:
            yield group
            group, tokens = [], 0
        group.append(answer)
        tokens += len(answer)
    yield group


def _scores(tree: AnswerTree, first: Tensor, behind: Tensor) -> list[Tensor]:
    """Add up each answer's log-probabilities, from those behind the prompt and those of the steps behind a node, in order."""
    made, at = [], 0
    for steps in tree.steps:
        later = behind[at : at + len(steps) - 1]
        at += len(later)
        made.append(first[steps[0][1]].to(behind.device) + later.sum())
    return made


def _log_probabilities(
    parts: DecoderParts, cache: DynamicCache, layer_tokens: Sequence[int], position: int, tree: AnswerTree
) -> Tensor:
    """Run the nodes of a tree; return the log-probability of each step behind a node, float32 ``(steps,)``."""
    steps = [step for answer in tree.steps for step in answer[1:]]
    if not steps:
        return torch.zeros(0, device=parts.entry)
    hidden = parts.norm(_run(parts, cache, layer_tokens, position, tree))[0]
    found = torch.zeros(len(steps), device=hidden.device)
    nodes, tokens = (torch.tensor(column, device=hidden.device) for column in zip(*steps, strict=True))
    for begin in range(0, len(hidden), _ROWS):
        table = torch.log_softmax(parts.head(hidden[begin : begin + _ROWS]).float(), dim=-1)
        here = (nodes >= begin) & (nodes < begin + _ROWS)
        rows = (nodes - begin).clamp(0, len(table) - 1)
        found = torch.where(here.to(table.device), table[rows.to(table.device), tokens.to(table.device)], found.to(table.device))
    return found


def _run(parts: DecoderParts, cache: DynamicCache, layer_tokens: Sequence[int], position: int, tree: AnswerTree) -> Tensor:
    """Run the nodes of a tree through all layers; return the residual stream, ``(1, nodes, hidden_size)``."""
    device = parts.entry
    hidden: Tensor = parts.embed(torch.tensor([tree.tokens], device=device))
    rope = parts.rotary(hidden, torch.tensor([tree.depths], device=device) + position)
    own, masks = torch.from_numpy(tree.visible()), dict[tuple[int, torch.device], Tensor | None]()
    with heads_grouped(parts.config, parts.attention, len(tree.tokens), device):
        for layer, place, held in zip(parts.layers, parts.places, layer_tokens, strict=True):
            hidden, rope = hidden.to(place), (rope[0].to(place), rope[1].to(place))
            if (held, place) not in masks:
                seen = torch.cat([own.new_ones(len(own), held), own], dim=1)[None, None].to(place)
                masks[held, place] = attention_mask(parts.attention, seen, hidden)
            hidden = run_layer(layer, hidden, masks[held, place], cache, rope)
    return hidden
