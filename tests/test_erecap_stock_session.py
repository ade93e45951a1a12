"""The backend ``hf-session``: its answers are those of ``hf-generate``, from a cache that is kept."""

import inspect
from pathlib import Path

import pytest
import torch

from erecap.answering.stock_session import HFSessionBackend
from erecap.backend import make_backend
from planner import BackendSpec, History, Prompt, Sampling, build_prompt

GREEDY = Sampling(max_new_tokens=24)
ANSWERS = {
    "greedy": GREEDY,
    "past the end": Sampling(30, ignore_eos=True),
    "one token": Sampling(1),
    "sampled": Sampling(20, temperature=0.8, seed=5),
}


def backend_of(name: str, model_dir: str, **options: str) -> HFSessionBackend:
    backend = make_backend(BackendSpec(name, tuple({"model": model_dir, "dtype": "float32", "device": "cpu", **options}.items())))
    assert isinstance(backend, HFSessionBackend) or name != "hf-session"
    return backend


@pytest.fixture(scope="module")
def stock(model_dir):
    return backend_of("hf-generate", model_dir)


@pytest.fixture(scope="module", params=["0", "10"])
def backend(request, model_dir) -> HFSessionBackend:
    return backend_of("hf-session", model_dir, lookup=request.param)


@pytest.fixture
def session(backend) -> HFSessionBackend:
    backend.reset()
    return backend


def begin(task: str = "Put the red ball in the kitchen.") -> History:
    return History().append("task", task).append("observation", "You are in the hall. You see a box, a key and a door.")


def grown(history: History, answer: str, turn: int) -> History:
    return history.append("plan", answer or "explore").append("observation", f"You are in the hall. You see box {turn} and a key.")


@pytest.mark.parametrize("sampling", ANSWERS.values(), ids=ANSWERS)
def test_a_growing_history_is_answered_as_by_stock_generate(stock, session, sampling):
    history, reused = begin(), []
    for turn in range(4):
        found, expected = (one.generate(build_prompt(history), sampling) for one in (session, stock))
        assert found.token_ids == expected.token_ids
        assert (found.kv_bytes, found.layer_tokens) == (expected.kv_bytes, expected.layer_tokens)
        reused.append(found.reused_tokens)
        history = grown(history, found.text, turn)
    assert reused[0] == 0 < reused[1]
    assert reused == sorted(set(reused))


def test_beginnings_to_avoid_are_avoided_alike(stock, session):
    history = begin()
    for turn in range(3):
        first = stock.generate(build_prompt(history), GREEDY)
        line = next(line for line in first.text.split("\n") if line.strip())
        sampling = Sampling(24, avoid=(line,))
        found, expected = (one.generate(build_prompt(history), sampling) for one in (session, stock))
        assert found.token_ids == expected.token_ids != first.token_ids
        history = grown(history, found.text, turn)


def test_a_changed_history_and_the_same_prompt_again(stock, session):
    long = build_prompt(grown(grown(begin(), "explore", 1), "goto box", 2))
    prompts = [
        long,
        long,
        build_prompt(grown(begin(), "drop", 3)),
        build_prompt(begin("Open the door.")),
        build_prompt(begin()),
        long,
    ]
    for prompt in prompts:
        assert session.generate(prompt, GREEDY).token_ids == stock.generate(prompt, GREEDY).token_ids


def test_the_same_prompt_again_runs_its_last_token_only(session):
    prompt = build_prompt(begin())
    found = [session.generate(prompt, GREEDY) for _ in range(2)]
    assert found[1].reused_tokens == found[1].prompt_tokens - 1


def test_lookup_needs_fewer_forwards(model_dir):
    """Of an answer that repeats itself, as the answers of this model do."""
    forwards = []
    for lookup in ("0", "10"):
        backend, count = backend_of("hf-session", model_dir, lookup=lookup), []
        hook = backend.loaded.model.get_input_embeddings().register_forward_hook(lambda *_, count=count: count.append(1))
        for turn in range(2):
            before, answer = (
                len(count),
                backend.generate(build_prompt(grown(begin(), "explore", turn)), Sampling(100, ignore_eos=True)),
            )
            assert answer.forward_passes == len(count) - before
            assert sum(accepted + 1 for _, accepted in answer.drafts) == (100 if lookup != "0" else 0)
            assert all(0 <= accepted <= drafted <= 10 for drafted, accepted in answer.drafts)
        hook.remove()
        forwards.append(len(count))
    assert forwards[0] == 200
    assert forwards[1] < 200


def agents(texts: list[str]) -> list[Prompt]:
    return [build_prompt(grown(begin(text * 150), "explore", 1)) for text in texts]


def test_agents_have_a_cache_each_within_the_budget(stock, model_dir):
    prompts = agents(["red ", "blue ", "green "])
    roomy, tight = (backend_of("hf-session", model_dir, kv_budget_mb=megabytes) for megabytes in ("512", "0.001"))
    for prompt in prompts:
        assert roomy.generate(prompt, GREEDY).reused_tokens == tight.generate(prompt, GREEDY).reused_tokens == 0
    for prompt in prompts:
        found, evicted = roomy.generate(prompt, GREEDY), tight.generate(prompt, GREEDY)
        assert found.reused_tokens == found.prompt_tokens - 1
        assert evicted.reused_tokens == 0
        assert found.token_ids == evicted.token_ids == stock.generate(prompt, GREEDY).token_ids
    assert roomy.kv_bytes > tight.kv_bytes > 0
    assert (len(roomy._kept), len(tight._kept)) == (3, 1)
    roomy.reset()
    assert roomy.kv_bytes == 0


class BrokenLayerError(Exception):
    pass


@pytest.mark.parametrize("call", [0, 3])
def test_an_error_leaves_no_cache_of_unknown_tokens_and_the_model_as_it_was(stock, session, call):
    prompts, model, left = [build_prompt(begin()), build_prompt(grown(begin(), "explore", 1))], session.loaded.model, [call]
    session.generate(prompts[0], GREEDY)

    def fail(*_: object) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise BrokenLayerError

    hook = model.model.layers[2].register_forward_hook(fail)
    with pytest.raises(BrokenLayerError):
        session.generate(prompts[1], Sampling(24, ignore_eos=True))
    hook.remove()
    assert "prepare_inputs_for_generation" not in vars(model)
    found = session.generate(prompts[1], GREEDY)
    assert found.reused_tokens == 0
    assert found.token_ids == stock.generate(prompts[1], GREEDY).token_ids


def test_generate_still_calls_what_is_corrected(make_model):
    """The correction hangs on this method and its argument; a transformers without them has to be looked at again."""
    parameters = inspect.signature(make_model(4).prepare_inputs_for_generation).parameters
    assert {"input_ids", "next_sequence_length"} <= set(parameters)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lookup": "-1"}, r"lookup=-1.*0 to turn prompt lookup off"),
        ({"lookup": "many"}, "lookup='many' is not a number"),
        ({"kv_budget_mb": "0"}, "kv_budget_mb=0 holds no session"),
        ({"keep": "0.7"}, "unknown option keep"),
    ],
)
def test_wrong_options_are_refused(model_dir, options, message):
    with pytest.raises(ValueError, match=message):
        backend_of("hf-session", model_dir, **options)


def test_an_architecture_whose_cache_cannot_be_cropped_is_refused(model_dir, tmp_path):
    for file in Path(model_dir).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('"full_attention"', '"sliding_attention"'))
    with pytest.raises(ValueError, match="sliding-window attention"):
        backend_of("hf-session", str(tmp_path))


def test_the_global_generator_is_left_alone(session):
    state = torch.random.get_rng_state()
    session.generate(build_prompt(begin()), Sampling(5, temperature=1.0, seed=4))
    assert torch.equal(state, torch.random.get_rng_state())
