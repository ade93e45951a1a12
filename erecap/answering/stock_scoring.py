"""Likelihoods of answers as rows of one batch of a stock model, padded behind."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def padded(answers: Sequence[Sequence[int]], prompt_tokens: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Lay out answers as rows behind a prompt.

    Parameters
    ----------
    answers
        Their tokens, at least one each.
    prompt_tokens
        Tokens before them.
    device
        Device of the tensors.

    Returns
    -------
    tuple of Tensor
        Token ids, int64 ``(rows, longest)``, and which tokens are none of the padding, those of the prompt included, int64
        ``(rows, prompt_tokens + longest)``.
    """
    longest = max(map(len, answers))
    ids = torch.tensor([[*answer, *[0] * (longest - len(answer))] for answer in answers], device=device)
    seen = torch.tensor([[1] * (prompt_tokens + len(answer)) + [0] * (longest - len(answer)) for answer in answers], device=device)
    return ids, seen


def score_rows(first: Tensor, logits: Tensor, answers: Sequence[Sequence[int]]) -> Tensor:
    """Add up the log-probabilities of each row's tokens.

    Parameters
    ----------
    first
        Logits behind the prompt, ``(1, vocab)``.
    logits
        Logits behind each token, ``(rows, longest, vocab)``.
    answers
        The tokens of the rows.

    Returns
    -------
    Tensor
        Log-likelihoods in nats, float32 ``(rows,)``.
    """
    made = []
    for row, answer in zip(logits, answers, strict=True):
        before = torch.cat([first.to(row.device, torch.float32), row[: len(answer) - 1].float()])
        made.append(-functional.cross_entropy(before, torch.tensor(answer, device=row.device), reduction="sum"))
    return torch.stack(made)
