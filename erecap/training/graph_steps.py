"""Training steps as CUDA graphs: the host launches one graph instead of thousands of kernels.

A GPU is done with a step of a small model before the host has launched its kernels. A graph is captured once for each shape of
batch, so batches are padded to few shapes: their rows to ``SIZES`` (``Batches.sizes``), their number of rows to what the token
budget holds. All graphs write the gradients into the same memory.
"""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from erecap.training.batches import Batch
from erecap.training.loss import LossParts

SIZES = (192, 256, 320, 448, 576, 768, 1024, 1344, 1792, 2368, 3136, 4160, 5504, 7296, 9664, 12800)
"""Lengths of rows: each about a third longer than the one before."""
PARTS = 4
"""Branches are looked for from the beginning of one of this many parts of a row."""
WARM_UP = 3
"""Steps before the first capture, in which libraries set themselves up; before another one a single step does."""

FixedLoss = Callable[[Batch, int | None], LossParts]
"""The loss of a batch, in operations that depend on shapes alone. The second argument is the first index at which branches may be,
``None`` for a batch without."""


class GraphSteps:
    """Losses and gradients of batches on a GPU.

    Parameters
    ----------
    model
        The model to train, on its GPU.
    loss
        Computes the loss of a batch with the model.
    token_budget
        Largest size of a batch in tokens.
    """

    def __init__(self, model: nn.Module, loss: FixedLoss, token_budget: int) -> None:
        self._loss, self._budget = loss, token_budget
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._gradients = [torch.zeros_like(p) for p in self._parameters]
        self._graphs: dict[tuple[int, ...], _Graph] = {}
        self._pool: Any = None  # torch's handle of the memory that all graphs share

    def __call__(self, batch: Batch) -> LossParts:
        """Compute the loss of a batch on the GPU, and set the gradients of the parameters. All parts are detached."""
        fitted, begin = fit(batch, self._budget)
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        shape = (*fitted.input_ids.shape, -1 if begin is None else begin)
        if shape not in self._graphs:
            self._graphs[shape] = self._capture(fitted, begin)
        return self._graphs[shape].replay(fitted)

    def _capture(self, batch: Batch, begin: int | None) -> "_Graph":
        held = _mapped(batch, Tensor.clone)

        def work() -> Tensor:
            torch._foreach_zero_(self._gradients)
            parts = self._loss(held, begin)
            parts.loss.backward()  # type: ignore[no-untyped-call]
            return torch.stack([part.detach() for part in _parts(parts)])

        here, aside = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            for _ in range(1 if self._graphs else WARM_UP):
                work()
        here.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            figures = work()
        self._pool = graph.pool()
        return _Graph(graph, held, figures)


class _Graph:
    """A captured step with the memory of its inputs and figures."""

    def __init__(self, graph: torch.cuda.CUDAGraph, held: Batch, figures: Tensor) -> None:
        self._graph, self._held, self._figures = graph, _inputs(held), figures

    def replay(self, batch: Batch) -> LossParts:
        for name, tensor in _inputs(batch).items():
            self._held[name].copy_(tensor)
        self._graph.replay()
        return LossParts(*self._figures.clone().unbind())  # the next graph writes into the same memory


def fit(batch: Batch, token_budget: int) -> tuple[Batch, int | None]:
    """Add rows of padding, so that all batches of a length have as many rows, and say from where on there may be branches.

    Parameters
    ----------
    batch
        The batch; its rows are padded to one of few lengths.
    token_budget
        Largest size of a batch in tokens.

    Returns
    -------
    Batch
        The batch with its rows of padding, which have weight 0.
    int or None
        The first index at which branches may be: the beginning of one of ``PARTS`` parts. ``None`` where the batch has none.
    """
    rows, length = batch.input_ids.shape
    missing = max(rows, token_budget // length) - rows
    part = -(-length // PARTS)
    begin = None if batch.branches_begin is None else batch.branches_begin // part * part
    return _mapped(batch, lambda tensor: functional.pad(tensor, (0, 0, 0, missing))), begin


def _inputs(batch: Batch) -> dict[str, Tensor]:
    """List the tensors of a batch that its loss depends on."""
    found = {"input_ids": batch.input_ids, "weights": batch.weights}
    return found if batch.forks is None else {**found, "forks": batch.forks}


def _mapped(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    """Copy a batch with the tensors of ``_inputs`` changed."""
    forks = None if batch.forks is None else change(batch.forks)
    return replace(batch, input_ids=change(batch.input_ids), weights=change(batch.weights), forks=forks)


def _parts(parts: LossParts) -> tuple[Tensor, ...]:
    return tuple(getattr(parts, field.name) for field in fields(LossParts))
