"""Answers that must not begin with given lines: which tokens are banned, and what is decoded without them."""

import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from erecap.backend import make_backend
from erecap.engine.decode import DecodeOptions, banned, decode
from erecap.engine.prefill import prefill
from erecap.models.beginnings import AvoidedBeginnings, Vocabulary
from erecap.models.tokenization import ChatTokenizer, TokenizedPrompt
from planner import BackendSpec, History, Sampling, build_prompt

TOKENS = [
    *("", "goto", " goto", "Goto", " kitchen", " Kitchen", "kitchen", " kit", "chen", " kitchens", "kitchen\n", "\n", "\n\n", " "),
    *(" hall", "explore", "ex", "plore", "drop", "pickup", " red", " ball", " red ball", " in hall", "1", "2", ".", " room", "12"),
    *("explore\ndrop", "-", " caf\ufffd", "\ufffd", "pick", "kitchen\r\n"),
]


def spelled(ids):
    return "".join(TOKENS[token] for token in ids)


def written(text):
    """Spell a text in the longest tokens that it begins with."""
    ids = []
    while text:
        token = max((t for t in TOKENS if t and text.startswith(t)), key=len)
        ids.append(TOKENS.index(token))
        text = text[len(token) :]
    return ids


def bans(avoid, text):
    return {TOKENS[token] for token in AvoidedBeginnings(avoid, spelled, Vocabulary(TOKENS))(written(text))}


APART = {" kitchen", " Kitchen", " kit"}
KITCHEN = APART | {"kitchen", "kitchen\n", "kitchen\r\n"}
EXPLORE = {"explore", "ex", "explore\ndrop"}


@pytest.mark.parametrize(
    ("avoid", "text", "expected"),
    [
        (["goto kitchen"], "", set()),  # the skill is free, its place is not
        (["goto kitchen"], "goto", APART),
        (["goto kitchen"], " Goto ", KITCHEN),
        (["goto kitchen"], "1. goto ", KITCHEN),
        (["goto kitchen"], "goto hall", set()),
        (["Goto  kitchen\n"], "\n\ngoto ", KITCHEN),
        (["explore"], "", EXPLORE),
        (["explore"], "- ", EXPLORE),
        (["explore"], "drop\n", set()),
        (["goto hall\nexplore"], "", set()),
        (["goto hall\nexplore"], "goto", set()),
        (["goto hall\nexplore"], "goto hall", set()),  # the line break is not written yet
        (["goto hall\nexplore"], "goto hall \n\n", EXPLORE),
        (["goto hall\nexplore"], "1. goto hall\n2. ", EXPLORE),
        (["pickup red ball"], "", {"pickup", "pick"}),
        (["drop\npickup red ball in hall"], "drop\n", {"pickup", "pick"}),
        (["goto kitchen", "goto hall", "explore"], "", EXPLORE),
        (["goto kitchen", "goto hall"], "goto", APART | {" hall"}),
        (["goto hall", "goto hall\nexplore"], "goto", {" hall"}),
        (["goto room 12"], "goto room ", {"12"}),
        (["goto room 12"], "goto room 1", {"2"}),
        (["explore\ndrop"], "", {"explore\ndrop"}),
        (["- "], "", set()),
    ],
)
def test_banned_tokens(avoid, text, expected):
    assert bans(avoid, text) == expected


def test_a_line_break_is_what_separates_lines():
    """A word on the same line is another line of a plan, so only a token after a line break is banned."""
    assert bans(["drop\nexplore"], "drop\n") == EXPLORE
    assert "explore" not in bans(["drop explore"], "drop\n")


def test_partial_characters_hide_nothing():
    """``café`` is written in two tokens, each of which alone is no text."""
    pieces = [b"goto", b" caf\xc3", b"\xa9", b" \xc3", b" bar"]

    def decode_bytes(ids):
        return b"".join(pieces[token] for token in ids).decode(errors="replace")

    ban = AvoidedBeginnings(["goto é"], decode_bytes, Vocabulary([decode_bytes([token]) for token in range(len(pieces))]))
    assert ban([0, 3]) == [2]
    assert ban([0, 1]) == []


def lines_of(text):
    return [line for line in (" ".join(line.split()).lower() for line in text.splitlines()) if line]


def begins_with(text, avoid):
    return lines_of(text)[: len(lines_of(avoid))] == lines_of(avoid)


@pytest.fixture(scope="module")
def chat(tokenizer):
    return ChatTokenizer(tokenizer)


def decoded(model, ids, options):
    return [token for (token,) in decode(model, prefill(model, TokenizedPrompt.from_ids(ids)), options)]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.floats(0.05, 1.0), temperature=st.sampled_from([0.0, 1.0]))
def test_no_answer_begins_with_an_avoided_line(make_model, chat, seed, share, temperature):
    """What a random model wants to write in ASCII is avoided, then what it writes instead, and so on."""
    model, prompt = make_model(2), random.Random(seed).choices(range(3, 320), k=20)
    texts = chat.token_texts()
    vocabulary, other = Vocabulary(texts), [token for token, text in enumerate(texts) if not text.isascii()]

    def written_without(avoid):
        ban = AvoidedBeginnings(avoid, chat.decode, vocabulary)
        ids = decoded(model, prompt, DecodeOptions(8, temperature, seed, ban=lambda answer: [*ban(answer), *other]))
        return ids, ban

    free, _ = written_without([])
    avoid = [text for end in (len(free), round(share * len(free))) if lines_of(text := chat.decode(free[:end]))]
    for _ in range(2):
        ids, ban = written_without(avoid)
        assert not any(begins_with(chat.decode(ids[:end]), text) for text in avoid for end in range(len(ids) + 1))
        assert (ids == free) == (not any(token in ban(free[:place]) for place, token in enumerate(free)))
        avoid += [text] if lines_of(text := chat.decode(ids)) else []


def test_an_answer_that_goes_another_way_stays_as_it_is(make_model, chat):
    model, vocabulary, prompt = make_model(4), Vocabulary(chat.token_texts()), list(range(3, 60))
    ban = AvoidedBeginnings(["goto kitchen", "explore\ndone", "\u00e9t\u00e9"], chat.decode, vocabulary)
    for options in (DecodeOptions(30), DecodeOptions(30, temperature=1.0, seed=3)):
        masked = DecodeOptions(30, options.temperature, options.seed, ban=ban)
        assert decoded(model, prompt, masked) == decoded(model, prompt, options)


def test_each_row_of_a_batch_is_masked_by_its_own_tokens(make_model):
    model, prompts = make_model(8), [TokenizedPrompt.from_ids(range(3, 43)), TokenizedPrompt.from_ids(range(90, 190))]
    free = [decoded(model, prompt.input_ids, DecodeOptions(6)) for prompt in prompts]
    assert free[0][0] != free[1][0]
    options = DecodeOptions(6, ban=lambda answer: [free[0][2]] if list(answer) == free[0][:2] else [])
    together = list(zip(*decode(model, prefill(model, prompts), options), strict=True))
    assert [list(row) for row in together] == [decoded(model, prompt.input_ids, options) for prompt in prompts]
    assert list(together[1]) == free[1]
    assert list(together[0])[:2] == free[0][:2]
    assert together[0][2] != free[0][2]


def test_each_row_may_have_a_ban_of_its_own(make_model):
    model, prompts = make_model(8), [TokenizedPrompt.from_ids(range(3, 43)), TokenizedPrompt.from_ids(range(90, 190))]
    free = [decoded(model, prompt.input_ids, DecodeOptions(6)) for prompt in prompts]
    bans = (None, lambda answer: [free[1][0]])
    together = list(zip(*decode(model, prefill(model, prompts), DecodeOptions(6, ban=bans)), strict=True))
    assert list(together[0]) == free[0]
    assert list(together[1]) == decoded(model, prompts[1].input_ids, DecodeOptions(6, ban=bans[1])) != free[1]
    with pytest.raises(ValueError, match="1 bans for 2 rows"):
        list(decode(model, prefill(model, prompts), DecodeOptions(6, ban=(None,))))


def test_the_logits_of_a_prefill_stay_as_they_are(make_model):
    model = make_model(4)
    start = prefill(model, TokenizedPrompt.from_ids(range(3, 43)))
    before, first = start.logits.clone(), int(start.logits.argmax())
    ((token,),) = decode(model, start, DecodeOptions(1, ban=lambda answer: [first]))
    assert token != first
    assert torch.equal(start.logits, before)


def test_masked_logits_have_no_share_of_the_draws():
    logits = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    assert banned(logits, [[], []]) is logits
    shares = banned(logits, [[2], [0, 1]]).softmax(dim=-1)
    assert (shares == 0).tolist() == [[False, False, True], [True, True, False]]
    assert shares[1, 2] == 1


@pytest.fixture(scope="module")
def backends(model_dir):
    options = (("model", model_dir), ("dtype", "float32"), ("device", "cpu"))
    return [make_backend(BackendSpec(name, options)) for name in ("baseline", "hf-generate")]


@pytest.mark.parametrize("sampling", [Sampling(12), Sampling(12, temperature=0.8, seed=1), Sampling(12, ignore_eos=True)])
def test_backends_agree_on_what_they_avoid(backends, sampling):
    """The engine and stock ``generate`` give the same tokens, and none begins as before."""
    prompt = build_prompt(History().append("task", "Put the red ball in the kitchen.").append("observation", "You see a key."))
    avoid: tuple[str, ...] = ()
    seen = []
    for _ in range(3):
        asked = replace(sampling, avoid=avoid)
        answers = [backend.generate(prompt, asked) for backend in backends]
        assert answers[0].token_ids == answers[1].token_ids
        assert not any(begins_with(answers[0].text, text) for text in avoid)
        seen.append(answers[0].token_ids)
        avoid += (answers[0].text.strip() or "explore",)
    assert len(set(seen)) == 3


def test_without_lines_to_avoid_nothing_is_indexed(model_dir):
    backend = make_backend(BackendSpec("baseline", (("model", model_dir), ("dtype", "float32"), ("device", "cpu"))))
    backend.generate(build_prompt(History().append("task", "Go.").append("observation", "Here.")), Sampling(3))
    assert "_vocabulary" not in vars(backend)
