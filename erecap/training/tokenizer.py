"""The small planner's tokenizer: byte-level BPE, trained on the texts that the planner reads and writes.

It follows Qwen2's (same pre-tokenizer, special tokens and ChatML template), so the planner runs through the same code as Qwen2.
Two things differ: it has no default system message, and no Unicode normalisation, so decoding gives back any text exactly.
(``AutoTokenizer`` loads it as a ``Qwen2Tokenizer`` where it is saved with a Qwen2 model. That class normalises text to NFC first;
text that is in NFC already gets the same ids.)
"""

import re
from collections.abc import Iterable, Iterator, Sequence

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

# Qwen2's pattern; ``\p{N}`` without ``+`` splits numbers into digits
PRETOKENIZE_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

_ROLES = "system\nuser\nassistant\n"
_ROLE_COUNT = 10_000
_SPECIAL = re.compile(r"<\|(?:endoftext|im_start|im_end)\|>")

# 3 special tokens and the 256 bytes
MIN_VOCAB = 259


def build_tokenizer(
    texts: Iterable[str],
    vocab_size: int = 2048,
    min_frequency: int = 20,
    max_length: int = 16384,
    phrases: Sequence[str] = (),
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer on ``texts``.

    Every text round-trips exactly. The end of a sequence is ``<|im_end|>``, padding is ``<|endoftext|>``.

    Parameters
    ----------
    texts
        Message texts or rendered chats. The role names become tokens in both cases.
    vocab_size
        Upper bound of the vocabulary, without ``phrases``.
    min_frequency
        Pairs that occur less often are not merged.
    max_length
        The tokenizer's ``model_max_length``, in tokens.
    phrases
        Texts that also become single tokens, such as " red ball". A small model then looks up one token, and the token after it is
        the answer.

    Raises
    ------
    ValueError
        For a vocabulary without room for the 256 bytes.
    """
    if vocab_size < MIN_VOCAB:
        raise ValueError(f"vocab_size={vocab_size} must be at least {MIN_VOCAB} (256 bytes and 3 special tokens): raise it")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(_pieces(texts), _trainer(vocab_size, min_frequency))
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in phrases])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[START],
        chat_template=CHAT_TEMPLATE,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )


def _trainer(vocab_size: int, min_frequency: int) -> trainers.BpeTrainer:
    return trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )


def _pieces(texts: Iterable[str]) -> Iterator[str]:
    """Split the texts at special tokens, which no merge may cross. Role names come first, often enough to be merged first."""
    for _ in range(_ROLE_COUNT):
        yield _ROLES
    for text in texts:
        yield from _SPECIAL.split(text)
