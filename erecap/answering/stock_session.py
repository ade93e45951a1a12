"""Stock transformers with a kept cache and prompt lookup: what a user would write today, for comparison with sessions."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import wraps
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache, PreTrainedModel

from erecap.answering.local import Cost
from erecap.answering.stock import HFGenerateBackend
from erecap.distributed.tensor_parallel import ranks_of
from erecap.models.answers import TimedAnswer
from erecap.models.kv_cache import CACHE_FIELD, cache_bytes, crop
from erecap.models.loading import LoadedModel
from erecap.models.tokenization import TokenizedPrompt
from erecap.sessions.reuse import common_prefix
from erecap.sessions.store import goes_on_with
from planner.backend import Sampling
from planner.grammar import AnswerFormat
from planner.prompt import Prompt


@dataclass(frozen=True)
class _KeptCache:
    """A cache and the ids of the tokens that it holds, int64 ``(tokens,)``."""

    cache: DynamicCache
    tokens: NDArray[np.int64]


class HFSessionBackend(HFGenerateBackend):
    """Stock ``generate`` on a ``DynamicCache`` that is kept between prompts and cropped to what the next one has in common with it.

    Prompt lookup guesses the next tokens of an answer from the prompt and verifies them in one forward. Greedy answers stay the
    same. Sampled ones would be other draws under the same seed, so sampling turns it off.

    Parameters
    ----------
    loaded
        The model and its tokenizer; full attention in all layers, since no other cache can be cropped.
    trim
        Shortens the text of a prompt before it is tokenized.
    lookup
        Most tokens that are guessed at once; 0 turns prompt lookup off.
    budget_bytes
        Most bytes of keys and values of all kept caches together. The last one stays, even if it is larger.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        trim: Callable[[Prompt], Prompt] | None = None,
        lookup: int = 10,
        budget_bytes: int = 2**31,
    ) -> None:
        super().__init__(loaded, trim)
        self._lookup, self._budget = lookup, budget_bytes
        self._kept: list[_KeptCache] = []  # used least lately first

    def use_format(self, answer_format: AnswerFormat) -> None:
        """Answer in a format from now on; ``choice`` is refused with a ``ValueError``."""
        if answer_format == "choice":
            raise ValueError(
                "format=choice on hf-session: stock transformers would copy the kept cache for each line; use hf-generate, or "
                "baseline-session, which keeps it"
            )
        super().use_format(answer_format)

    def reset(self) -> None:
        """Forget all caches."""
        self._kept.clear()

    @property
    def kv_bytes(self) -> int:
        """Bytes of keys and values of all kept caches; of a divided model, of all ranks together."""
        return sum(cache_bytes(kept.cache) for kept in self._kept) * ranks_of(self.loaded.model)

    def _run(self, tokenized: TokenizedPrompt, sampling: Sampling, answer: TimedAnswer) -> Cost:
        cache = self._take(tokenized.input_ids)
        reused = int(cache.get_seq_length())
        options: dict[str, Any] = {CACHE_FIELD: cache}
        guesses = bool(self._lookup) and not sampling.temperature
        if guesses:
            options["prompt_lookup_num_tokens"] = self._lookup
        with _only_new_tokens(self.loaded.model, cache) as ends:
            output = self._generate(tokenized, sampling, answer, **options)
        self._keep(cache, output.sequences[0].cpu().numpy())
        cost = self._cost(output, len(tokenized), reused)
        return replace(cost, drafts=_verified(ends, len(tokenized), len(answer.tokens))) if guesses else cost

    def _take(self, ids: NDArray[np.int64]) -> DynamicCache:
        """Take out the cache that a prompt goes on with, cropped to what they have in common; an empty one where there is none.

        An error on the way thus leaves no cache behind whose tokens are not known.
        """
        row = goes_on_with([kept.tokens for kept in self._kept], ids)
        if row is None:
            return DynamicCache(config=self.loaded.model.config)
        found = self._kept.pop(row)
        crop(found.cache, min(common_prefix(found.tokens, ids), len(ids) - 1))  # the last token gives the logits
        return found.cache

    def _keep(self, cache: DynamicCache, tokens: NDArray[np.int64]) -> None:
        """Keep a cache with the tokens that were run, and free those used least lately until the others fit the budget."""
        self._kept.append(_KeptCache(cache, tokens[: cache.get_seq_length()]))
        while self.kv_bytes > self._budget and len(self._kept) > 1:
            del self._kept[0]


@contextmanager
def _only_new_tokens(model: PreTrainedModel, cache: DynamicCache) -> Iterator[list[tuple[int, int]]]:
    """Let ``generate`` run the tokens that a filled cache lacks, under prompt lookup too.

    Without prompt lookup it does so anyway. With it, transformers up to 5.24 leaves the number of new tokens open in the first
    forward (``_assisted_decoding``), so that the whole prompt is run once more behind the cache, and answers are wrong.

    Yields
    ------
    list of tuple of int and int
        Of each forward so far, the tokens in the cache before it and after it, guessed ones included.
    """
    ends = list[tuple[int, int]]()
    prepare: Any = model.prepare_inputs_for_generation

    @wraps(prepare)
    def prepare_new(input_ids: torch.Tensor, next_sequence_length: int | None = None, **kwargs: Any) -> Any:
        new = input_ids.shape[1] - cache.get_seq_length() if next_sequence_length is None else next_sequence_length
        ends.append((int(cache.get_seq_length()), input_ids.shape[1]))
        return prepare(input_ids, next_sequence_length=new, **kwargs)

    shadowed: Any = model  # an attribute of the instance stands before the method, until it is deleted
    shadowed.prepare_inputs_for_generation = prepare_new
    try:
        yield ends
    finally:
        del shadowed.prepare_inputs_for_generation


def _verified(ends: list[tuple[int, int]], prompt_tokens: int, new_tokens: int) -> tuple[tuple[int, int], ...]:
    """Count the tokens that each forward of an answer verified, and those that were right, from its ``ends``.

    A forward begins behind the tokens that are right so far; the last token of the answer is not run.
    """
    begins = [prompt_tokens - 1, *(begin for begin, _ in ends[1:]), prompt_tokens + new_tokens - 1]
    guessed = [end - begin - 1 for begin, (_, end) in zip(begins, ends, strict=False)]
    right = [after - before - 1 for before, after in pairwise(begins)]
    return tuple(zip(guessed, right, strict=True))
