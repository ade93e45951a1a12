"""Protected tokens in the prompts of stock models, and selectors by name."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import erecap
from erecap.dropin.protection import rows_of_flags
from erecap.engine.prefill import prefill
from erecap.models.tokenization import TokenizedPrompt
from erecap.schedule import PruneSchedule
from erecap.selectors import SELECTORS, USE_PRUNER, RecencySelector

SCHEDULE = PruneSchedule.after([0, 1], 0.3)
GREEDY = {"do_sample": False, "max_new_tokens": 4, "pad_token_id": 0, "eos_token_id": None}


@pytest.fixture
def model(model_dir):
    return erecap.load_model(model_dir, "float32", "cpu").model


def ids_of(length):
    return torch.from_numpy(np.random.default_rng(length).integers(3, 250, (1, length)))


def last_kept(model, ids, **options):
    """Return the columns of the tokens that survive the last stage."""
    with erecap.pruned(model, None, SCHEDULE, "recency", **options) as stats:
        model.generate(ids, attention_mask=torch.ones_like(ids), **GREEDY)
    return [row.tolist() for row in stats.prefills[0].kept[-1]]


def test_protected_tokens_stay_as_in_the_engine(model):
    ids, flags = ids_of(80), np.zeros(80, np.bool_)
    flags[20:30] = True
    kept = last_kept(model, ids, protected=flags)
    wanted = prefill(model, TokenizedPrompt.from_ids(ids[0].numpy(), flags), SCHEDULE, RecencySelector())
    assert set(range(20, 30)) <= set(kept[0])
    assert kept[0] == wanted.stages[-1].positions[0, : wanted.stages[-1].counts[0]].tolist()
    assert not set(range(20, 30)) & set(last_kept(model, ids)[0]), "recency alone drops them"


def test_beams_share_the_flags_of_their_prompt(model):
    ids, flags = ids_of(60).repeat(2, 1), torch.zeros(2, 60, dtype=torch.bool)
    flags[0, 10], flags[1, 20] = True, True
    with erecap.pruned(model, None, SCHEDULE, "recency", flags) as stats:
        model.generate(ids, attention_mask=torch.ones_like(ids), num_beams=2, **GREEDY)
    kept = [set(row.tolist()) for row in stats.prefills[0].kept[-1]]
    assert [10 in row for row in kept] == ([True, False] if len(kept) == 2 else [True, True, False, False])
    assert [20 in row for row in kept] == ([False, True] if len(kept) == 2 else [False, False, True, True])


@pytest.mark.parametrize("name", [name for name in SELECTORS if name not in USE_PRUNER])
def test_selectors_by_name_prune(model, name):
    ids = ids_of(70)
    with erecap.pruned(model, None, SCHEDULE, selector=name) as stats:
        model.generate(ids, attention_mask=torch.ones_like(ids), **GREEDY)
    assert stats.prefills[0].layer_tokens[0][-1] < 70


@pytest.mark.parametrize("selector", [None, "learned"])
def test_a_selector_that_needs_a_pruner_says_so(model, selector):
    with pytest.raises(ValueError, match="pruner"), erecap.pruned(model, None, SCHEDULE, selector):
        pass


def test_an_unknown_selector_is_named(model):
    with pytest.raises(ValueError, match="selector 'magic' is not known"), erecap.pruned(model, None, SCHEDULE, "magic"):
        pass


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (np.zeros(59, np.bool_), r"shape \(1, 59\) and the prompts \(1, 60\)"),
        (np.zeros((2, 60), np.bool_), r"shape \(2, 60\)"),
        (np.zeros((0, 60), np.bool_), r"shape \(0, 60\)"),
        (np.zeros(60, np.int64), "dtype int64"),
    ],
)
def test_flags_of_another_shape_are_refused(model, flags, message):
    ids = ids_of(60)
    with pytest.raises(ValueError, match=message), erecap.pruned(model, None, SCHEDULE, "recency", flags):
        model.generate(ids, attention_mask=torch.ones_like(ids), **GREEDY)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(1, 3))
def test_flags_lose_their_padding(lengths, beams):
    width, flags = max(lengths), np.zeros((len(lengths), max(lengths)), np.bool_)
    flags[:, -1] = True
    rows = rows_of_flags(torch.from_numpy(flags), [length for length in lengths for _ in range(beams)], width)
    assert [len(row) for row in rows] == [length for length in lengths for _ in range(beams)]
    assert all(row[-1] and row.sum() == 1 for row in rows)


# ---- spans and roles -----------------------------------------------------------------------------------------------------------


def test_spans_mark_the_tokens_that_hold_their_characters(tokenizer):
    text = "goto kitchen, then pickup red ball in attic"
    first = text.index("red ball")
    flags = erecap.protect_spans(tokenizer, text, [(first, first + len("red ball"))])
    ids = tokenizer(text)["input_ids"]
    assert flags.shape == (1, len(ids))
    marked = tokenizer.decode([token for token, flag in zip(ids, flags[0], strict=True) if flag])
    assert marked.strip() == "red ball"


def test_spans_of_a_batch_are_padded_on_the_left(tokenizer):
    texts = ["goto kitchen", "goto kitchen, then pickup red ball in attic"]
    flags = erecap.protect_spans(tokenizer, texts, [[(0, 4)], []])
    batch = tokenizer(texts, padding=True, padding_side="left", return_tensors="pt")
    assert flags.shape == batch["input_ids"].shape
    assert flags[0].nonzero()[0, 0] == batch["attention_mask"][0].argmax()
    assert not flags[1].any()


@pytest.mark.parametrize(
    ("spans", "message"), [([(2, 2)], "not within"), ([(-1, 2)], "not within"), ([(0, 99)], "not within a prompt of 4 characters")]
)
def test_spans_outside_the_prompt_are_refused(tokenizer, spans, message):
    with pytest.raises(ValueError, match=message):
        erecap.protect_spans(tokenizer, "goto", spans)


def test_a_batch_needs_spans_for_each_prompt(tokenizer):
    with pytest.raises(ValueError, match="1 lists of spans for 2 prompts"):
        erecap.protect_spans(tokenizer, ["a", "b"], [[(0, 1)]])


def test_roles_mark_their_messages_and_the_header(tokenizer):
    messages = [
        {"role": "system", "content": "You plan."},
        {"role": "user", "content": "a red ball"},
        {"role": "assistant", "content": "goto hall"},
        {"role": "user", "content": "a blue key"},
    ]
    flags = erecap.protect_roles(tokenizer, messages, ("system", "assistant"))
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)["input_ids"]
    assert flags.shape == (1, len(ids))
    marked = tokenizer.decode([token for token, flag in zip(ids, flags[0], strict=True) if flag])
    assert "You plan." in marked
    assert "goto hall" in marked
    assert "ball" not in marked
    assert "key" not in marked
    assert flags[0, -1], "the header of the answer"


def test_an_unknown_role_and_control_tokens_are_refused(tokenizer):
    messages = [{"role": "user", "content": "a"}]
    with pytest.raises(ValueError, match="no message has the role tool: the roles here are user"):
        erecap.protect_roles(tokenizer, messages, ("tool",))
    with pytest.raises(ValueError, match="control tokens"):
        erecap.protect_roles(tokenizer, [{"role": "user", "content": "<|im_end|>"}], ("user",))
