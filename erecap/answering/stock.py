"""Stock transformers as a backend, for comparison."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.generation.streamers import BaseStreamer

from erecap.answering.local import Cost, LocalBackend
from erecap.answering.stock_scoring import padded, score_rows
from erecap.distributed.tensor_parallel import ranks_of
from erecap.engine.decode import TokenBan, banned
from erecap.models.answers import TimedAnswer
from erecap.models.architecture import check_length
from erecap.models.kv_cache import CACHE_FIELD, cache_bytes, crop
from erecap.models.tokenization import TokenizedPrompt
from planner.backend import Sampling

BATCH_BYTES = 2**30
"""About the most bytes of keys and values of the answers that are scored together."""


class HFGenerateBackend(LocalBackend):
    """Stock transformers ``generate``, for comparison. It decodes the same greedy tokens as the baseline."""

    def _run(self, tokenized: TokenizedPrompt, sampling: Sampling, answer: TimedAnswer) -> Cost:
        return self._cost(self._generate(tokenized, sampling, answer), len(tokenized))

    @torch.inference_mode()
    def _score(self, tokenized: TokenizedPrompt, answers: Sequence[Sequence[int]]) -> tuple[torch.Tensor, Cost]:
        """Prefill once, then run the answers as rows of batches, each on a copy of the cache per row."""
        model, ids = self.loaded.model, torch.from_numpy(tokenized.input_ids)[None].to(self.loaded.device)
        check_length(model.config, len(tokenized), max(map(len, answers)))
        prompt = model(ids, use_cache=True, logits_to_keep=1)
        cost = self._cost(prompt, len(tokenized))
        first = prompt.logits[0, -1:].float()
        rows = max(1, BATCH_BYTES // max(1, cost.kv_bytes))
        batches = [answers[begin : begin + rows] for begin in range(0, len(answers), rows)]
        sums = [score_rows(first, self._rows(prompt[CACHE_FIELD], batch, len(tokenized)), batch) for batch in batches]
        return torch.cat(sums).cpu(), cost

    def _rows(self, cache: Any, answers: Sequence[Sequence[int]], prompt_tokens: int) -> torch.Tensor:
        """Run answers, padded behind, on a cache that has one row before and after; return logits, ``(rows, n, vocab)``."""
        ids, seen = padded(answers, prompt_tokens, self.loaded.device)
        cache.batch_repeat_interleave(len(answers))
        out = self.loaded.model(ids, attention_mask=seen, **{CACHE_FIELD: cache})
        crop(cache, prompt_tokens)
        cache.batch_select_indices(torch.zeros(1, dtype=torch.int64, device=self.loaded.device))
        logits: torch.Tensor = out.logits
        return logits

    def _generate(self, tokenized: TokenizedPrompt, sampling: Sampling, answer: TimedAnswer, **options: Any) -> Any:
        """Call ``generate`` with more ``options``; hand each token to ``answer`` and return the output."""
        ids = torch.from_numpy(tokenized.input_ids)[None].to(self.loaded.device)
        gpus = [device for device in self.loaded.devices if device.type == "cuda"]
        with torch.random.fork_rng(gpus):  # generate draws from the global generator
            torch.manual_seed(sampling.seed)
            return self.loaded.model.generate(  # type: ignore[operator]
                ids,
                attention_mask=torch.ones_like(ids),
                generation_config=self._config(sampling),
                streamer=_TokenStreamer(answer),
                logits_processor=self._processors(sampling, len(tokenized)),
                **options,
            )

    def _cost(self, output: Any, prompt_tokens: int, reused_tokens: int = 0) -> Cost:
        """Read what an answer cost from the output of ``generate``."""
        kv_bytes = self._prompt_kv_bytes(output, prompt_tokens) * ranks_of(self.loaded.model)
        return Cost((prompt_tokens,) * self.loaded.model.config.num_hidden_layers, (), kv_bytes, reused_tokens=reused_tokens)

    def _config(self, sampling: Sampling) -> GenerationConfig:
        """Translate ``sampling``, with the model's own generation defaults (repetition penalty, top_k, top_p) set to neutral.

        ``generate`` takes every missing value from the model's defaults, the end token included. So for ``ignore_eos`` the end
        token is set to an id that no token has: the vocabulary's size.
        """
        eos = [self.loaded.model.config.vocab_size] if sampling.ignore_eos else sorted(self.loaded.eos_ids)
        draws = {"temperature": sampling.temperature, "top_k": 0, "top_p": 1.0} if sampling.temperature else {}
        return GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=sampling.max_new_tokens,
            do_sample=bool(sampling.temperature),
            repetition_penalty=1.0,
            eos_token_id=eos or [self.loaded.model.config.vocab_size],
            pad_token_id=0,
            return_dict_in_generate=True,
            **draws,
        )

    def _processors(self, sampling: Sampling, prompt_tokens: int) -> LogitsProcessorList:
        ban = self.ban(sampling)
        return LogitsProcessorList([] if ban is None else [_BanProcessor(ban, prompt_tokens)])

    @staticmethod
    def _prompt_kv_bytes(output: Any, prompt_tokens: int) -> int:
        """Count the bytes of the cache after prefill: all layers have one length, so this is the prompt's share of the whole."""
        held = output[CACHE_FIELD]
        return cache_bytes(held) * prompt_tokens // int(held.get_seq_length())


class _BanProcessor(LogitsProcessor):
    """A ban of tokens in stock ``generate``; answers begin after ``prompt_tokens`` tokens."""

    def __init__(self, ban: TokenBan, prompt_tokens: int) -> None:
        self._ban, self._prompt_tokens = ban, prompt_tokens

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Mask ``scores``, float ``(batch, vocab)``, by the tokens so far, int64 ``(batch, n)``."""
        return banned(scores, [self._ban(row) for row in input_ids[:, self._prompt_tokens :].tolist()])


class _TokenStreamer(BaseStreamer):
    """A streamer that passes ``generate``'s tokens to an answer, one or several at a time. The first call holds the prompt."""

    def __init__(self, answer: TimedAnswer) -> None:
        self._answer, self._prompt_seen = answer, False

    def put(self, value: torch.Tensor) -> None:
        if self._prompt_seen:
            for token in value.flatten().tolist():
                self._answer.put(token)
        self._prompt_seen = True

    def end(self) -> None:
        """Do nothing: the backend closes the answer."""
