"""The engine as a backend: a prefill, pruned or not, and a decode; one prompt, or several in a batch."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

from torch import Tensor

from erecap.answering.local import Asked, Cost, LocalBackend, put_step
from erecap.calibration.chooser import ChosenSchedule
from erecap.engine.decode import decode
from erecap.engine.prefill import prefill
from erecap.engine.scoring import score_answers
from erecap.engine.selector_protocol import Selector
from erecap.models.answers import TimedAnswer
from erecap.models.architecture import decoder_parts
from erecap.models.device import reset_peak_memory
from erecap.models.loading import LoadedModel
from erecap.models.tokenization import TokenizedPrompt
from erecap.schedule import PruneSchedule
from planner.backend import Generation, PlanRequest, Sampling
from planner.prompt import Prompt

BATCH_BYTES = {"cpu": 2**30, "cuda": 2**33}
"""About the most bytes of keys, values and activations of the prompts that are prefilled together, by the kind of device."""


class EngineBackend(LocalBackend):
    """The pruned engine; with the empty schedule it is the baseline.

    Parameters
    ----------
    loaded
        The model and its tokenizer.
    schedule
        Where tokens are dropped and how many.
    selector
        Scores the tokens at the stages.
    choose
        Chooses a schedule and selector for each prompt; replaces ``schedule`` and ``selector``.
    trim
        Shortens the text of a prompt before it is tokenized.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        schedule: PruneSchedule,
        selector: Selector | None = None,
        choose: Callable[[TokenizedPrompt], ChosenSchedule] | None = None,
        trim: Callable[[Prompt], Prompt] | None = None,
    ) -> None:
        super().__init__(loaded, trim)
        self.schedule, self.selector = schedule, selector
        self._choose = choose or (lambda _: ChosenSchedule(schedule, selector))

    def _run(self, tokenized: TokenizedPrompt, sampling: Sampling, answer: TimedAnswer) -> Cost:
        chosen = self._choose(tokenized)
        start = prefill(self.loaded.model, tokenized, chosen.schedule, chosen.selector)
        for (token,) in decode(self.loaded.model, start, self.decode_options(sampling, self.ban(sampling))):
            if token is not None:
                answer.put(token)
        return Cost(start.layer_tokens[0], tuple(stage.counts[0] for stage in start.stages), start.kv_bytes, chosen)

    def _score(self, tokenized: TokenizedPrompt, answers: Sequence[Sequence[int]]) -> tuple[Tensor, Cost]:
        model, chosen = self.loaded.model, self._choose(tokenized)
        start = prefill(model, tokenized, chosen.schedule, chosen.selector)
        held = start.layer_tokens[0]
        scores = score_answers(decoder_parts(model), start.cache, held, start.logits, start.next_positions[0], answers)
        return scores, Cost(held, tuple(stage.counts[0] for stage in start.stages), start.kv_bytes, chosen)

    def generate_batch(self, requests: Sequence[PlanRequest]) -> list[Generation]:
        """Answer the prompts of several agents together (``planner.BatchBackend``).

        Prompts that are decoded alike and pruned by the same schedule share a batch, up to ``BATCH_BYTES``. Peak memory is
        that of the largest batch. Where a line is chosen, the lines of one prompt are a batch, so prompts come one by one.

        Raises
        ------
        PromptTooLongError
            Where a prompt and its answer exceed the model's positions.
        OutOfMemoryError
            Where a batch exceeds the device's memory.
        """
        reset_peak_memory(*self.loaded.devices)
        asked = [self.submit(request) for request in requests]
        if self.answer_format == "choice":
            return [self._alone(one) for one in asked]
        chosen = [self._choose(one.tokenized) for one in asked]
        found: dict[int, Generation] = {}
        for rows in _batches(asked, chosen, self._batch_tokens()):
            with self.out_of_memory(sum(len(asked[row].tokenized) for row in rows)):
                costs = self._run_batch([asked[row] for row in rows], chosen[rows[0]])
            found |= {row: self.generation(asked[row], cost) for row, cost in zip(rows, costs, strict=True)}
        return [found[row] for row in range(len(asked))]

    def _alone(self, one: Asked) -> Generation:
        with self.out_of_memory(len(one.tokenized)):
            return self.generation(one, self.answer(one))

    def _run_batch(self, asked: Sequence[Asked], chosen: ChosenSchedule) -> list[Cost]:
        """Prefill and decode prompts of one batch; hand each token to the answer of its row."""
        options = self.decode_options(asked[0].request.sampling, tuple(self.ban(one.request.sampling) for one in asked))
        start = prefill(self.loaded.model, [one.tokenized for one in asked], chosen.schedule, chosen.selector)
        for tokens in decode(self.loaded.model, start, options):
            put_step(asked, tokens)
        padded = len(asked) * sum(map(max, zip(*start.layer_tokens, strict=True)))
        return [
            Cost(tokens, tuple(stage.counts[row] for stage in start.stages), start.kv_bytes * sum(tokens) // padded, chosen)
            for row, tokens in enumerate(start.layer_tokens)
        ]

    def _batch_tokens(self) -> int:
        """Compute the most tokens of a batch, padding included."""
        config: Any = self.loaded.model.config
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        kv = 2 * config.num_hidden_layers * config.num_key_value_heads * head_dim
        per_token: int = (kv + 4 * config.intermediate_size) * self.loaded.model.dtype.itemsize
        return BATCH_BYTES.get(self.loaded.device.type, BATCH_BYTES["cpu"]) // per_token


def _batches(asked: Sequence[Asked], chosen: Sequence[ChosenSchedule], most_tokens: int) -> list[list[int]]:
    """Divide prompts into batches, the shortest first, so that little is padded."""
    alike: dict[Hashable, list[int]] = {}
    for row in sorted(range(len(asked)), key=lambda row: len(asked[row].tokenized)):
        key = (asked[row].request.sampling.shared, str(chosen[row].schedule), id(chosen[row].selector))
        alike.setdefault(key, []).append(row)
    return [batch for rows in alike.values() for batch in _fitting(rows, [len(asked[row].tokenized) for row in rows], most_tokens)]


def _fitting(rows: Sequence[int], lengths: Sequence[int], most_tokens: int) -> Iterator[list[int]]:
    """Cut rows of rising length where a batch would exceed ``most_tokens``. A longer prompt is alone."""
    batch: list[int] = []
    for row, length in zip(rows, lengths, strict=True):
        if batch and (len(batch) + 1) * length > most_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
