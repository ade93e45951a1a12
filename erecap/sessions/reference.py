"""The masked reference of a session: a slow implementation that defines its states. ``ReplanSession`` must agree with it.

It keeps no cache. At every turn all tokens go through all layers, each with the keys that it saw when its turn came. Messages,
flags and verdicts are kept in plain lists. It shares only the model's modules and the data types of prompts and schedules with the
session; ``erecap.sessions.session`` states the rules in words.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from erecap.models.tokenization import TokenizedPrompt
from erecap.schedule import PruneSchedule


class SessionReference:
    """The states of a session, computed from scratch at every turn.

    Parameters
    ----------
    model
        A stock transformers model in evaluation mode, with the attention ``sdpa`` or ``eager``.
    schedule
        Where tokens are dropped and how many, by the rule ``chunk_top_k`` or ``threshold``.
    selector
        Scores the tokens at the stages.
    """

    def __init__(self, model: PreTrainedModel, schedule: PruneSchedule, selector: Any = None) -> None:
        self._model: Any = model  # transformers' accessors are untyped
        self._schedule, self._selector = schedule, selector
        self._depth = int(model.config.num_hidden_layers)
        self._stage_after = {stage.after_layer: index for index, stage in enumerate(schedule.stages)}
        self._ids: list[int] = []
        self._protected: list[bool] = []
        self._survived: list[int | None] = []  # stages that a token survives; None without a verdict
        self._messages: list[tuple[int, int]] = []
        self._tail_from = 0
        self._held: list[set[int]] = [set() for _ in range(self._depth)]
        self._saw: list[list[set[int]]] = [[] for _ in range(self._depth)]  # by layer and token: the positions it attended to
        self.reused = 0
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    @property
    def kept(self) -> list[list[int]]:
        """Positions of the tokens that each layer holds, rising."""
        return [sorted(held) for held in self._held]

    def extend(self, prompt: TokenizedPrompt) -> Tensor:
        """Take in a prompt; return the logits of the next token, float32 ``(1, vocab)``."""
        ends, flags = list(prompt.segment_ends), [bool(flag) for flag in prompt.protected]
        messages = list(zip([0, *ends], [*ends, len(prompt)], strict=True))
        begin, end = messages[-1]
        self.reused = self._reusable(prompt, messages[:-1])
        self._forget(self.reused)
        self._protected = [flag or p < self._schedule.head for p, flag in enumerate(flags)][: self.reused]
        for p, survived in enumerate(self._survived):
            if survived is not None and not self._protected[p]:
                self._drop(p, survived)
        for p in range(self.reused, len(prompt)):
            self._add(int(prompt.input_ids[p]), flags[p] or p < self._schedule.head)
        self._tail_from = len(prompt) - self._schedule.tail_min
        self._messages = messages[:-1] if all(flags[begin:end]) else messages
        logits = self._run(self.reused, self._messages)
        self._messages = messages[:-1]
        return logits

    def answer(self, tokens: Sequence[int]) -> Tensor:
        """Take in tokens of the answer, one by one; return the logits after each, float32 ``(tokens, vocab)``."""
        logits = []
        for token in tokens:
            self._add(token, True)
            logits.append(self._run(len(self._ids) - 1, []))
        return torch.cat(logits)

    def _reusable(self, prompt: TokenizedPrompt, messages: list[tuple[int, int]]) -> int:
        reused = 0
        while reused < min(len(self._ids), len(prompt) - 1) and self._may_reuse(reused, prompt):
            reused += 1
        if self._schedule.rule == "threshold" or not self._schedule.stages:
            return reused
        whole = 0
        for mine, other in zip(self._messages, messages, strict=False):
            if mine != other or mine[1] > reused:
                break
            whole = mine[1]
        judged = any(survived is not None for survived in self._survived[whole:])
        return whole if judged else reused

    def _may_reuse(self, p: int, prompt: TokenizedPrompt) -> bool:
        survived, everywhere = self._survived[p], all(p in held for held in self._held)
        drops = survived is not None and survived < len(self._schedule.stages)
        for_tail_alone = drops and not self._protected[p] and p >= self._tail_from
        return self._ids[p] == prompt.input_ids[p] and not for_tail_alone and (everywhere or not prompt.protected[p])

    def _add(self, token: int, protected: bool) -> None:
        self._ids.append(token)
        self._protected.append(protected)
        self._survived.append(None)
        for saw in self._saw:
            saw.append({len(self._ids) - 1})

    def _forget(self, start: int) -> None:
        self._ids, self._survived = self._ids[:start], self._survived[:start]
        self._held = [{p for p in held if p < start} for held in self._held]
        self._saw = [saw[:start] for saw in self._saw]

    def _drop(self, p: int, stage: int) -> None:
        """Take a token out of all layers behind a stage."""
        for after, index in self._stage_after.items():
            if index == stage:
                for held in self._held[after + 1 :]:
                    held.discard(p)

    def _run(self, start: int, messages: list[tuple[int, int]]) -> Tensor:
        """Run all tokens, those from ``start`` on for the first time, and give those of ``messages`` verdicts that have none."""
        decoder = self._model.get_decoder()
        hidden = decoder.embed_tokens(torch.tensor([self._ids], device=self._model.device))
        positions = torch.arange(len(self._ids), device=hidden.device)[None]
        rope, cache = decoder.rotary_emb(hidden, positions), DynamicCache()
        running = set(range(start, len(self._ids)))
        waiting = {p for message in messages for p in range(*message) if self._survived[p] is None}
        for number, layer in enumerate(decoder.layers):
            self._held[number] |= running
            for p in running:
                self._saw[number][p] = {q for q in self._held[number] if q <= p}
            hidden = layer(hidden, self._mask(number, hidden), None, cache, position_embeddings=rope)
            if number in self._stage_after and waiting:
                stage = self._stage_after[number]
                scores = self._selector.score(hidden, positions, stage, torch.tensor([len(self._ids)], device=hidden.device))
                for message in messages:
                    for p in self._losers([p for p in range(*message) if p in waiting], scores[0].tolist(), stage):
                        waiting.discard(p)
                        self._survived[p] = stage
                        if not self._protected[p] and p < self._tail_from:
                            self._drop(p, stage)
                            running.discard(p)
        for p in waiting:
            self._survived[p] = len(self._stage_after)
        self.keys, self.values = ([getattr(held, name)[0] for held in cache.layers] for name in ("keys", "values"))
        logits: Tensor = self._model.get_output_embeddings()(decoder.norm(hidden[:, -1])).float()
        return logits

    def _losers(self, candidates: list[int], scores: list[float], stage: int) -> list[int]:
        """List the tokens of one message that a stage drops. Ties go to the earlier position."""
        chosen, free = self._schedule.stages[stage], [p for p in candidates if p >= self._schedule.head]
        if self._schedule.rule == "threshold":
            assert chosen.tau is not None
            return [p for p in free if not scores[p] > chosen.tau]
        keep = math.floor(len(free) * chosen.keep + 0.5)
        return sorted(free, key=lambda p: (-scores[p], p))[keep:]

    def _mask(self, layer: int, hidden: Tensor) -> Tensor:
        """Hide from each token what it did not see, as numbers that are added to the logits, ``(1, 1, n, n)``."""
        pairs = [(p, q) for p, saw in enumerate(self._saw[layer]) for q in saw]
        hides = torch.full((len(self._ids), len(self._ids)), torch.finfo(hidden.dtype).min, dtype=hidden.dtype)
        hides[tuple(torch.tensor(pairs).T)] = 0.0
        return hides.to(hidden.device)[None, None]
