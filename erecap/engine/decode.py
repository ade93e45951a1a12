"""Decode from exactly the cache that a prefill left, pruned or not.

It yields token ids; ``erecap.models.answers`` turns them into lines of text.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from erecap.engine.prefill import PrefillResult, run_layer
from erecap.models.architecture import DecoderParts, check_length, decoder_parts
from erecap.models.grouped_attention import heads_grouped
from erecap.models.masks import attention_mask

TokenBan = Callable[[Sequence[int]], Iterable[int]]
"""Takes the tokens of an answer so far, and returns those with which it must not go on; at least one must be left."""


@dataclass(frozen=True)
class DecodeOptions:
    """Settings of a decode.

    Attributes
    ----------
    max_new_tokens
        The most tokens to decode per row, end token included.
    temperature
        Divisor of the logits before sampling; 0 decodes greedily.
    seed
        Seed of the draws, the same for every row.
    eos_ids
        Tokens that end a row.
    ignore_eos
        Whether to decode exactly ``max_new_tokens`` tokens, for paired timings.
    ban
        Tokens that must not come next, by the tokens of the row so far; ``None`` for none. A tuple holds one for each row.
    script
        Tokens that every row writes first, whatever the logits say: a measurement repeats a recorded answer with it. Each is
        chosen as usual and then replaced, so that the time is that of an answer.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    seed: int = 0
    eos_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    ban: TokenBan | tuple[TokenBan | None, ...] | None = None
    script: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={self.max_new_tokens} must be at least 1: ask for one token or more")
        if self.temperature < 0:
            raise ValueError(f"temperature={self.temperature} must not be negative: use 0 for greedy decoding")

    def scripted(self, step: int, token: int) -> int:
        """Return the script's token at ``step``; behind its end ``token``, which was chosen."""
        return self.script[step] if step < len(self.script) else token


def decode(model: PreTrainedModel, start: PrefillResult, options: DecodeOptions) -> Iterator[tuple[int | None, ...]]:
    """Decode all rows, one step at a time.

    The first step reads ``start.logits`` and runs no layer. In each step the host waits for the device once, to read the tokens.
    The cache in ``start`` grows with each step, so a prefill can be decoded only once.

    Parameters
    ----------
    model
        The model that ran the prefill.
    start
        Result of the prefill.
    options
        Settings of the decode.

    Returns
    -------
    iterator of tuple of int or None
        For each step the token of each row, the end token included; ``None`` for a row that has ended.

    Raises
    ------
    ContextLengthError
        Where prompt and answer exceed the model's positions.
    ValueError
        For a prefill whose decode has begun before, and for one whose cache was changed since.
    """
    check_length(model.config, max(start.next_positions), options.max_new_tokens)
    _take(start)
    return _decode(decoder_parts(model), start, options)


@torch.inference_mode()
def _decode(parts: DecoderParts, start: PrefillResult, options: DecodeOptions) -> Iterator[tuple[int | None, ...]]:
    yield from decode_by(DecodeSteps(parts, start, options.max_new_tokens).run, parts, start.logits, options)


@torch.inference_mode()
def decode_by(
    run: Callable[[Tensor, int], Tensor], parts: DecoderParts, logits: Tensor, options: DecodeOptions
) -> Iterator[tuple[int | None, ...]]:
    """Choose the tokens of all rows, one step at a time, and decide when to stop.

    Parameters
    ----------
    run
        Runs the last token of each row, int64 ``(batch,)``, as ``DecodeSteps.run`` does. The last tokens of all are not run.
    parts
        The model's modules.
    logits
        Logits of the first token, float32 ``(batch, vocab)``.
    options
        Settings of the decode.

    Returns
    -------
    iterator of tuple of int or None
        As ``decode`` returns it.
    """
    choose, ended = _Chooser(options, logits), [False] * len(logits)
    bans = _Bans(options.ban, len(logits))
    tokens = parts.agree(choose(bans.masked(logits)))
    for step in range(options.max_new_tokens):
        ids = [options.scripted(step, token) for token in tokens.tolist()]
        if step < len(options.script):
            tokens = torch.tensor(ids, device=tokens.device)
        yield tuple(None if done else token for token, done in zip(ids, ended, strict=True))
        ended = [done or (token in options.eos_ids and not options.ignore_eos) for token, done in zip(ids, ended, strict=True)]
        if all(ended) or step == options.max_new_tokens - 1:
            return
        bans.take(ids)
        tokens = parts.agree(choose(bans.masked(run(tokens, step))))


class DecodeSteps:
    """A decoder that runs one token per row through all layers, on the cache of a prefill.

    ``decode`` chooses the tokens and decides when to stop. Rotary embeddings and masks of all steps are made once, at the start.

    Parameters
    ----------
    parts
        The model's modules.
    start
        Result of the prefill; its cache grows with each step.
    max_new_tokens
        The most steps that will be run.
    on_layer
        Called after each layer with its number and the residual stream that leaves it, ``(batch, 1, hidden_size)``.
    """

    def __init__(
        self,
        parts: DecoderParts,
        start: PrefillResult,
        max_new_tokens: int,
        on_layer: Callable[[int, Tensor], None] | None = None,
    ) -> None:
        device = start.logits.device
        self._parts, self._cache, self._on_layer = parts, start.cache, on_layer
        first = torch.tensor(start.next_positions, device=device)
        positions = first[:, None] + torch.arange(max_new_tokens, device=device)
        like = torch.empty(0, dtype=parts.embed.weight.dtype, device=device)  # type: ignore[arg-type]  # rotary reads dtype and device
        cos, sin = parts.rotary(like, positions)
        self._ropes = {place: (cos.to(place), sin.to(place)) for place in set(parts.places)}
        self._masks = _padding_masks(start, max_new_tokens, parts.places)

    def run(self, tokens: Tensor, step: int) -> Tensor:
        """Run one step.

        Parameters
        ----------
        tokens
            The last decoded token of each row, int64 ``(batch,)``.
        step
            Number of tokens of each row that were decoded before them.

        Returns
        -------
        Tensor
            Logits of the next token, float32 ``(batch, vocab)``.
        """
        hidden = self._parts.embed(tokens[:, None])
        ropes = {place: (cos[:, step : step + 1], sin[:, step : step + 1]) for place, (cos, sin) in self._ropes.items()}
        with heads_grouped(self._parts.config, self._parts.attention, 1, hidden.device):
            layers = zip(self._parts.layers, self._parts.places, self._masks, strict=True)
            for number, (layer, place, (mask, width)) in enumerate(layers):
                visible = None if mask is None else mask[..., : width + step + 1]
                hidden = run_layer(layer, hidden, attention_mask(self._parts.attention, visible, hidden), self._cache, ropes[place])
                if self._on_layer is not None:
                    self._on_layer(number, hidden)
        return self._parts.head(self._parts.norm(hidden[:, -1])).float()  # type: ignore[no-any-return]


class _Bans:
    """The tokens that must not come next, row by row. It reads the tokens that the host knows, so it never waits for the device."""

    def __init__(self, ban: TokenBan | tuple[TokenBan | None, ...] | None, rows: int) -> None:
        self._bans = ban if isinstance(ban, tuple) else (ban,) * rows
        if len(self._bans) != rows:
            raise ValueError(f"{len(self._bans)} bans for {rows} rows: give one for each row, or one for all")
        self._answers: list[list[int]] = [[] for _ in range(rows)]

    def take(self, ids: Sequence[int]) -> None:
        """Take the next token of each row."""
        for answer, token in zip(self._answers, ids, strict=True):
            answer.append(token)

    def masked(self, logits: Tensor) -> Tensor:
        """Set the logits of banned tokens to minus infinity, in a copy; float32 ``(batch, vocab)``."""
        rows = zip(self._bans, self._answers, strict=True)
        return banned(logits, [() if ban is None else ban(answer) for ban, answer in rows])


def banned(logits: Tensor, tokens: Sequence[Iterable[int]]) -> Tensor:
    """Set the logits of each row's ``tokens`` to minus infinity.

    Parameters
    ----------
    logits
        Logits, float ``(batch, vocab)``.
    tokens
        Token ids by row.

    Returns
    -------
    Tensor
        ``logits`` where no row has such tokens, else a copy.
    """
    places = [(row, token) for row, ids in enumerate(tokens) for token in ids]
    masked = logits.clone() if places else logits
    for place in places:  # few; an index tensor would have to be copied to the device, which waits for it
        masked[place].fill_(float("-inf"))
    return masked


class _Chooser:
    """A choice of next tokens. Each row has its own random generator, so it gets the same tokens in a batch as alone."""

    def __init__(self, options: DecodeOptions, logits: Tensor) -> None:
        self._temperature = options.temperature
        self._draws = [torch.Generator(logits.device).manual_seed(options.seed) for _ in logits] if options.temperature else []

    def __call__(self, logits: Tensor) -> Tensor:
        """Choose token ids, int64 ``(batch,)``, from ``logits``, float32 ``(batch, vocab)``."""
        if not self._temperature:
            return logits.argmax(dim=-1)
        shares = torch.softmax(logits / self._temperature, dim=-1)
        return torch.cat([torch.multinomial(row, 1, generator=draw) for row, draw in zip(shares, self._draws, strict=True)])


def _padding_masks(start: PrefillResult, max_new_tokens: int, places: tuple[torch.device, ...]) -> list[tuple[Tensor | None, int]]:
    """Make for each layer the mask that hides padding, on the layer's device, and the width of its cache.

    The mask is bool ``(batch, 1, 1, keys)``, or ``None`` without padding. Layers between two stages hold the same tokens and share
    one mask.
    """
    layers = list(zip(zip(*start.layer_tokens, strict=True), places, strict=True))
    made = {
        (lengths, place): (_padding_mask(lengths, max_new_tokens, place), max(lengths)) for lengths, place in dict.fromkeys(layers)
    }
    return [made[layer] for layer in layers]


def _padding_mask(lengths: tuple[int, ...], max_new_tokens: int, device: torch.device) -> Tensor | None:
    if len(set(lengths)) == 1:
        return None
    keys = torch.arange(max(lengths) + max_new_tokens, device=device)
    own = keys < torch.tensor(lengths, device=device)[:, None]
    return (own | (keys >= max(lengths)))[:, None, None]


_TAKEN: WeakSet[DynamicCache] = WeakSet()
"""Caches from which a decode has begun."""


def _take(start: PrefillResult) -> None:
    """Let one decode have the cache of ``start``; raise ``ValueError`` where another had it, or where the cache was changed."""
    layers: list[Any] = start.cache.layers
    left = [max(tokens) for tokens in zip(*start.layer_tokens, strict=True)]
    if start.cache in _TAKEN:
        raise ValueError("a decode of this prefill has begun before, and its cache grows with every token: prefill again")
    if [layer.get_seq_length() for layer in layers] != left or any(layer.rows_moved for layer in layers):
        raise ValueError("the cache was changed after the prefill, which left other tokens or rows in it: prefill again")
    _TAKEN.add(start.cache)
