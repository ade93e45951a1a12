"""Answers in a format: what a random model writes can be read, and a choice is the likeliest line, on every backend."""

import random
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.backends.registry import BackendFactory
from erecap.answering.formats import LineChoices, LinesBan, expression_of
from erecap.answering.local import encode_prompt
from erecap.backend import make_backend
from erecap.engine import scoring
from erecap.engine.decode import DecodeOptions, decode
from erecap.engine.decode_steps import DecodeSteps
from erecap.engine.prefill import prefill
from erecap.engine.scoring import AnswerTree, score_answers
from erecap.models.architecture import decoder_parts
from erecap.models.grammar_masks import MaskVocabulary
from planner import BackendSpec, History, PlanGrammar, PlanParseError, PlanRequest, Sampling, build_prompt, parse_plan
from planner.grammar import whole_lines

ROOMS, THINGS = ("kitchen", "attic", "room 10"), ("red ball", "grey door", "blue box", "yellow key")
BACKENDS = ["baseline", "hf-generate", "erecap?selector=recency&keep=0.5", "baseline-session", "erecap-session?selector=recency"]
CHOICES = ("goto hall", "done", "explore", "put red ball next to blue box", "put red ball in blue box")


def grammar_of(rooms, things, numbers=(), choices=CHOICES):
    places = ("", *(f" in {room}" for room in rooms))
    forms = (
        (("goto ",), rooms),
        (("pickup ", "open "), things, places),
        (("put ",), things, (" next to ",), things, places),
        whole_lines("explore", "drop", "done"),
    )
    return PlanGrammar(forms, numbers, choices)


@pytest.fixture(scope="module")
def make(model_dir):
    """``make(name, format)``: a backend of the random model, made once."""
    made = {}

    def backend(name, answer_format):
        if (name, answer_format) not in made:
            options = f"model={model_dir}&dtype=float32&device=cpu&format={answer_format}"
            made[name, answer_format] = make_backend(BackendSpec.parse(f"{name}{'&' if '?' in name else '?'}{options}"))
        return made[name, answer_format]

    return backend


@pytest.fixture(scope="module")
def prompt():
    history = History().append("task", "Put the red ball in the kitchen.")
    for turn in range(5):
        history = history.append("observation", f"You are in the hall. You see box {turn}.").append("plan", "goto box\nexplore")
    return build_prompt(history.append("observation", "You see a key."))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from(ROOMS), unique=True),
    st.lists(st.sampled_from(THINGS), unique=True),
    st.sampled_from([(), (3,), (9, 10, 11)]),
    st.integers(1, 60),
    st.sampled_from([0.0, 1.0, 5.0]),
    st.integers(0, 99),
)
def test_a_random_model_writes_plans_that_can_be_read(make, prompt, rooms, things, numbers, most, temperature, seed):
    """Also where the answer is cut: of a cut line nothing counts."""
    grammar = grammar_of(tuple(rooms), tuple(things), numbers)
    answer = make("baseline", "lines").generate(prompt, Sampling(most, temperature, seed, grammar=grammar))
    assert answer.format == "lines"
    assert answer.text or answer.truncated, "an answer has a line, or was cut before its end"
    if answer.complete_text:
        parse_plan(answer.complete_text)


def test_without_the_grammar_the_same_model_writes_no_plan(make, prompt):
    with pytest.raises(PlanParseError):
        parse_plan(make("baseline", "free").generate(prompt, Sampling(40)).text)


@pytest.mark.parametrize("sampling", [Sampling(30), Sampling(30, avoid=("explore", "goto kitchen"))])
def test_every_unpruned_backend_writes_the_same_lines(make, prompt, sampling):
    sampling = replace(sampling, grammar=grammar_of(ROOMS[:2], THINGS[:2], (4, 5)))
    names = ("baseline", "hf-generate", "hf-session", "baseline-session", "baseline-session")  # the last with its cache
    answers = [make(name, "lines").generate(prompt, sampling) for name in names]
    assert len({answer.token_ids for answer in answers}) == 1
    assert parse_plan(answers[0].complete_text).skills[0].text not in sampling.avoid


def test_sampled_lines_are_those_of_stock_transformers(make, prompt):
    sampling = Sampling(20, 1.0, 3, grammar=grammar_of(ROOMS, THINGS))
    ours, stock = (make(name, "lines").generate(prompt, sampling) for name in ("baseline", "hf-generate"))
    assert ours.token_ids == stock.token_ids


@pytest.mark.parametrize("name", BACKENDS[2:])
def test_pruned_and_kept_caches_write_lines_too(make, prompt, name):
    answer = make(name, "lines").generate(prompt, Sampling(40, grammar=grammar_of(ROOMS, THINGS)))
    assert parse_plan(answer.complete_text)


def test_what_the_grammar_forces_is_drafted(make, prompt):
    """``put`` leads through ``red ball next to``, which costs one forward pass."""
    forced = PlanGrammar(((("put ",), ("red ball",), (" next to ",), ("blue box", "grey key")),))
    answer = make("baseline-session", "lines").generate(prompt, Sampling(60, grammar=forced))
    assert parse_plan(answer.complete_text)
    assert sum(accepted for _, accepted in answer.drafts) > 3
    assert answer.forward_passes < answer.new_tokens


def test_rows_of_a_batch_have_grammars_of_their_own(make, prompt):
    backend = make("baseline", "lines")
    samplings = [
        Sampling(25, grammar=grammar_of((room,), (), numbers)) for room, numbers in zip(ROOMS, [(), (2,), ()], strict=True)
    ]
    together = backend.generate_batch([PlanRequest(prompt, sampling) for sampling in samplings])
    assert [one.text for one in together] == [backend.generate(prompt, sampling).text for sampling in samplings]


def test_what_is_to_be_avoided_is_written_where_nothing_else_is_left(make, prompt):
    only = PlanGrammar((whole_lines("explore"),))
    answer = make("baseline", "lines").generate(prompt, Sampling(20, avoid=("explore",), grammar=only))
    assert answer.text.startswith("explore")
    ban = LinesBan(lambda tokens: np.array([True, False, False]), lambda tokens: [1])
    assert ban([]).tolist() == [True, True, False]
    assert LinesBan(ban.mask, lambda tokens: [1, 2])([]).tolist() == [True, False, False]


def test_a_mask_can_go_back(tokenizer):
    """A rejected draft leaves tokens behind that the next call does not have."""
    vocabulary = MaskVocabulary(tokenizer, 330, frozenset({2}))
    expression = expression_of(grammar_of(ROOMS, THINGS, (1, 2)))
    ids = tokenizer("2. pickup red ball in attic\nexplore\n", add_special_tokens=False)["input_ids"]
    mask, rng = vocabulary.mask(expression), random.Random(0)
    for length in rng.sample(range(len(ids) + 1), len(ids) + 1):
        fresh = vocabulary.mask(expression)
        assert np.array_equal(mask(ids[:length]), fresh(ids[:length]))
        assert not mask(ids[:length])[ids[length] if length < len(ids) else 2]
        assert mask(ids[:length])[320:].all(), "logits without a token are banned"
    assert not mask([*ids, 2]).any(), "behind the end all is free"
    with pytest.raises(ValueError, match="cannot follow"):
        mask(tokenizer("fly", add_special_tokens=False)["input_ids"])


# ---- choice --------------------------------------------------------------------------------------------------------------------


def likelihood(model, prompt, answer):
    """By one forward over prompt and answer."""
    ids = torch.tensor([[*prompt.input_ids.tolist(), *answer]])
    table = torch.log_softmax(model(ids).logits[0].float(), -1)
    return sum(float(table[len(prompt) - 1 + place, token]) for place, token in enumerate(answer))


def lines_of(backend):
    """Each line with the end token, then each with a line break."""
    encode = backend.chat.data_tokens
    return [*([*encode(line).tolist(), 2] for line in CHOICES), *(encode(f"{line}\n").tolist() for line in CHOICES)]


@pytest.mark.parametrize("name", ["baseline", "hf-generate", "baseline-session"])
def test_scores_are_those_of_whole_sequences(make, prompt, name, monkeypatch):
    monkeypatch.setattr(scoring, "MOST_TOGETHER", 12)  # several passes
    monkeypatch.setattr("erecap.answering.stock.BATCH_BYTES", 1)  # several batches
    backend = make(name, "choice")
    tokenized, answers = encode_prompt(backend.chat, prompt), lines_of(backend)
    expected = [likelihood(backend.loaded.model, tokenized, answer) for answer in answers]
    assert backend._score(tokenized, answers)[0].tolist() == pytest.approx(expected, abs=1e-3)
    scores = [
        np.logaddexp(ended, going_on) / len(answer)
        for ended, going_on, answer in zip(expected[: len(CHOICES)], expected[len(CHOICES) :], answers, strict=False)
    ]
    best = int(np.argmax(scores))
    made = backend.generate(prompt, Sampling(20, grammar=grammar_of(ROOMS, THINGS)))
    assert (made.text, made.format, made.choices, made.truncated) == (CHOICES[best], "choice", len(CHOICES), False)
    assert made.choice_score == pytest.approx(scores[best], abs=1e-3)
    assert made.token_ids == tuple(answers[best])
    assert 0 < made.ttft_s <= made.first_skill_s <= made.total_s


def test_scores_of_a_pruned_prompt_are_those_of_decoding_step_by_step(make, prompt):
    backend = make("erecap?selector=recency&keep=0.5", "choice")
    model, tokenized, answers = backend.loaded.model, encode_prompt(backend.chat, prompt), lines_of(backend)
    parts, expected = decoder_parts(model), []
    for answer in answers:
        start = prefill(model, tokenized, backend.schedule, backend.selector)
        steps, logits, total = DecodeSteps(parts, start, len(answer)), start.logits, 0.0
        for step, token in enumerate(answer):
            total += float(torch.log_softmax(logits[0], -1)[token])
            with torch.inference_mode():
                logits = steps.run(torch.tensor([token]), step)
        expected.append(total)
    scores, cost = backend._score(tokenized, answers)
    assert scores.tolist() == pytest.approx(expected, abs=1e-3)
    assert cost.layer_tokens[-1] < cost.layer_tokens[0] == len(tokenized)


def test_a_prompt_can_be_decoded_after_its_answers_were_scored(make, prompt):
    backend = make("baseline", "choice")
    model, tokenized = backend.loaded.model, encode_prompt(backend.chat, prompt)
    alone, scored = prefill(model, tokenized), prefill(model, tokenized)
    held = scored.layer_tokens[0]
    score_answers(decoder_parts(model), scored.cache, held, scored.logits, scored.next_positions[0], lines_of(backend))
    tokens = [list(decode(model, start, DecodeOptions(12))) for start in (alone, scored)]
    assert tokens[0] == tokens[1]


def test_a_session_goes_on_after_a_choice(make, prompt):
    backend = make("erecap-session?selector=recency", "choice")
    backend.reset()
    first = backend.generate(prompt, Sampling(20, grammar=grammar_of(ROOMS, THINGS)))
    again = backend.generate(prompt, Sampling(20, grammar=grammar_of(ROOMS, THINGS)))
    assert again.reused_tokens > first.reused_tokens == 0
    assert again.choice_score == pytest.approx(first.choice_score, abs=1e-3)


def test_a_line_that_is_to_be_followed_by_more_counts_as_one_that_ends():
    """The planner would write ``explore`` and go on; ``done`` it would end with. Neither end counts more than the other."""
    lines = LineChoices(ended=[[5, 2], [6, 2]], going_on=[[5, 9], [6, 9]])
    ended, going_on = [-8.0, -2.0], [-1.0, -9.0]
    chosen, score = lines.choose(torch.tensor([*ended, *going_on]), DecodeOptions(1))
    assert (chosen, score) == (0, pytest.approx(np.logaddexp(-8.0, -1.0) / 2, abs=1e-5))


def test_what_several_answers_begin_with_is_run_once():
    tree = AnswerTree.of([[5, 6, 7, 2], [5, 6, 8, 2], [5, 2], [9, 2]])
    assert tree.tokens == [5, 6, 7, 8, 9]
    assert tree.depths == [0, 1, 2, 2, 0]
    assert tree.visible()[3].tolist() == [True, True, False, True, False]
    assert AnswerTree.of([[2]]).tokens == []


def test_choices_avoid_and_draw(make, prompt):
    backend = make("baseline", "choice")
    plain = Sampling(20, grammar=grammar_of(ROOMS, THINGS))
    best = backend.generate(prompt, plain).text
    other = backend.generate(prompt, replace(plain, avoid=(best,)))
    assert (other.text != best, other.choices) == (True, len(CHOICES) - 1)
    assert backend.generate(prompt, replace(plain, avoid=CHOICES)).text == best, "something has to be done"
    drawn = {backend.generate(prompt, replace(plain, temperature=20.0, seed=seed)).text for seed in range(12)}
    assert len(drawn) > 1
    assert drawn <= set(CHOICES)


def test_a_batch_of_choices_is_what_each_is_alone(make, prompt):
    backend, lines = make("baseline", "choice"), []
    grammars = [grammar_of(ROOMS, THINGS, choices=CHOICES[at:]) for at in range(2)]
    requests = [PlanRequest(prompt, Sampling(20, grammar=grammar), lines.append) for grammar in grammars]
    together = backend.generate_batch(requests)
    assert [one.text for one in together] == [backend.generate(one.prompt, one.sampling).text for one in requests] == lines


# ---- refusals ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer_format", ["lines", "choice"])
def test_a_format_needs_a_grammar_unless_tokens_are_counted(make, prompt, answer_format):
    backend = make("baseline", answer_format)
    with pytest.raises(ValueError, match=rf"format={answer_format} needs the lines.*valid_actions.*format=free"):
        backend.generate(prompt, Sampling(20))
    timed = backend.generate(prompt, Sampling(20, ignore_eos=True, grammar=grammar_of(ROOMS, THINGS)))
    assert (timed.format, timed.new_tokens) == ("free", 20)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("baseline?format=json", r"format='json' is unknown: write format=lines or format=choice"),
        ("hf-session?format=choice", r"format=choice on hf-session.*use hf-generate, or baseline-session"),
    ],
)
def test_a_format_that_there_is_not_is_refused(model_dir, spec, message):
    with pytest.raises(ValueError, match=message):
        make_backend(BackendSpec.parse(f"{spec}&model={model_dir}&device=cpu"))


def test_the_missing_extra_is_named(model_dir, monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(ValueError, match=r"format=lines needs llguidance.*pip install 'erecap\[formats\]'"):
        make_backend(BackendSpec.parse(f"baseline?format=lines&model={model_dir}&device=cpu"))
    assert make_backend(BackendSpec.parse(f"baseline?format=choice&model={model_dir}&device=cpu")).answer_format == "choice"


def test_a_model_without_an_end_token_cannot_answer_in_a_format(tokenizer):
    with pytest.raises(ValueError, match=r"no end token.*format=free"):
        MaskVocabulary(tokenizer, 320, frozenset())
    with pytest.raises(ValueError, match="no fast tokenizer"):
        MaskVocabulary(object(), 320, frozenset({2}))


@pytest.mark.parametrize("answer_format", ["lines", "choice"])
def test_the_command_lines_backends_are_warmed_up_in_their_format(model_dir, prompt, answer_format):
    backend = BackendFactory()(f"baseline?model={model_dir}&device=cpu&format={answer_format}")
    assert backend.generate(prompt, Sampling(20, grammar=grammar_of(ROOMS, ()))).format == answer_format
