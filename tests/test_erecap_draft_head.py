"""The draft head: it learns to go on with a model's answers, saves forward passes, and changes no answer."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from erecap.answering.session import SessionBackend
from erecap.backend import make_backend
from erecap.engine.decode import DecodeOptions
from erecap.models.architecture import decoder_parts
from erecap.models.draft_head import CONFIG_FILE, WEIGHTS_FILE, DraftHead, DraftHeadMismatchError
from erecap.models.identity import identify
from erecap.models.loading import load_model
from erecap.models.tokenization import TokenizedPrompt
from erecap.sessions import ReplanSession
from erecap.sessions.drafts import CopyDraft, FirstDraft, ForcedDraft
from erecap.sessions.head_draft import HeadDraft
from erecap.sessions.verification import Verified
from erecap.training.batches import Batches, collate
from erecap.training.config import TrainConfig
from erecap.training.loop import Hooks
from erecap.training.sequences import SequenceList, TokenSequence
from erecap.training.train_draft_head import answers_of, draft_losses, episodes_of, train_draft_head
from planner import BackendSpec, History, Sampling, build_prompt

LENGTH = 14


@pytest.fixture(scope="module")
def model(make_model):
    return make_model(3, 4, 2)


def prompt_of(seed: int) -> TokenizedPrompt:
    ids = np.random.default_rng(seed).integers(7, 320, 24)
    return TokenizedPrompt(ids, np.ones(24, np.bool_), (24,))


def answer_of(model, prompt: TokenizedPrompt) -> list[int]:
    session = ReplanSession(model)
    session.extend(prompt)
    return list(session.plan(DecodeOptions(LENGTH)))


def episode_of(prompt: TokenizedPrompt, answer: list[int]) -> TokenSequence:
    ids = np.concatenate([prompt.input_ids, answer]).astype(np.int32)
    weights = np.repeat([0.3, 1.0], [len(prompt), len(answer)]).astype(np.float32)
    return TokenSequence(ids, weights, np.zeros(len(ids), np.int32))


@pytest.fixture(scope="module")
def trained(model, tmp_path_factory) -> Path:
    """A head that has learned the model's answers to six prompts."""
    out = tmp_path_factory.mktemp("head")
    sequences = SequenceList([episode_of(prompt_of(seed), answer_of(model, prompt_of(seed))) for seed in range(6)])
    torch.manual_seed(0)
    head = DraftHead(identify(model), width=32, ahead=4)
    batches = Batches(sequences, 400, 0)
    config = TrainConfig(steps=120, lr=1e-2, log_every=40, eval_every=60)
    records = train_draft_head(model, head, batches, batches, config, out, Hooks())
    assert records[-1]["eval"]["loss"] < records[0]["loss"] / 2
    assert records[-1]["eval"]["run"] > 2
    return out / "draft_head"


def test_a_trained_head_saves_passes_and_changes_no_answer(model, trained):
    head, parts = DraftHead.from_pretrained(trained, identify(model)), decoder_parts(model)
    passes = list[Verified]()
    for seed in (*range(6), 77):
        prompt = prompt_of(seed)
        session = ReplanSession(model)
        session.extend(prompt)
        made = list(session.plan(DecodeOptions(LENGTH), HeadDraft(head, parts), passes.append if seed < 6 else None))
        assert made == answer_of(model, prompt)
    assert len(passes) <= 6 * LENGTH / 2, "the head knows these answers"


class Watching:
    """A source without a guess that keeps the hidden states it is told."""

    def __init__(self, proposals: list[list[int]]) -> None:
        self.seen, self.proposals = list[Tensor](), proposals

    def saw(self, hidden: Tensor) -> None:
        self.seen.append(hidden)

    def propose(self, answer: list[int], most: int) -> list[int]:
        assert len(self.seen) > 0
        return self.proposals.pop(0)[:most] if self.proposals else []


@pytest.mark.parametrize("wrap", [lambda one: one, lambda one: FirstDraft((CopyDraft(np.zeros(0, np.int64)), one))])
def test_a_drafter_sees_the_state_that_wrote_the_last_token(model, wrap):
    """Also where a draft was accepted in part, in full, or not at all."""
    prompt, session = prompt_of(5), ReplanSession(model)
    expected = answer_of(model, prompt)
    watching = Watching([expected[3:5], [1, 2], [*expected[7:9], 9]])
    session.extend(prompt, expected[:1])
    ends = list[int]()
    list(session.plan(DecodeOptions(LENGTH), wrap(watching), lambda one: ends.append(one.accepted + 1)))
    written = np.cumsum(ends)[: len(watching.seen)] - 1
    head = decoder_parts(model).head
    assert [int(head(hidden).argmax()) for hidden in watching.seen] == [expected[place] for place in written]


def test_what_was_read_is_read_anew_where_the_answer_goes_on_otherwise(model, trained):
    head, parts = DraftHead.from_pretrained(trained), decoder_parts(model)
    answer = answer_of(model, prompt_of(1))
    hidden = torch.randn(model.config.hidden_size)
    source = HeadDraft(head, parts)
    assert source.propose(answer[:2], 4) == [], "no state was seen"
    source.saw(hidden)
    assert source.propose([], 4) == [], "no token was written"
    for ids in (answer[:2], answer[:5], answer[:5], [*answer[:3], 9]):
        alone = HeadDraft(head, parts)
        alone.saw(hidden)
        assert source.propose(ids, 4) == alone.propose(ids, 4)
    assert len(source.propose(answer[:5], 1)) <= 1


def test_a_grammar_hands_hidden_states_on(model):
    watching = Watching([])
    ForcedDraft(lambda answer: [], watching).saw(torch.zeros(3))
    assert len(watching.seen) == 1
    ForcedDraft(lambda answer: []).saw(torch.zeros(3))


def test_plans_are_cut_out_with_the_states_before_their_tokens(model):
    first, second = (episode_of(prompt_of(seed), answer_of(model, prompt_of(seed))) for seed in (0, 1))
    answers = answers_of(model, collate([first.cut(30), second]))
    assert answers is not None
    assert answers.inside.sum(1).tolist() == [6, LENGTH]
    assert answers.ids[1].tolist() == second.input_ids[24:].tolist()
    logits = decoder_parts(model).head(answers.hidden)
    assert torch.equal(logits[1].argmax(-1), answers.ids[1]), "the model itself writes its answers from these states"
    loss, metrics = draft_losses(model, DraftHead(identify(model), 8, 3), answers)
    assert loss > 0
    assert metrics.keys() == {"right", "run"}
    assert answers_of(model, collate([first.cut(20)])) is None


def test_branches_are_left_out(model):
    episode = episode_of(prompt_of(0), answer_of(model, prompt_of(0)))
    branched = episode.branch(26, [5, 6, 7])
    assert np.array_equal(episodes_of(SequenceList([branched]))[0].input_ids, episode.input_ids)


def test_a_stopped_training_goes_on(model, tmp_path):
    batches = Batches(SequenceList([episode_of(prompt_of(0), answer_of(model, prompt_of(0)))]), 100, 0)
    config = TrainConfig(steps=4, lr=1e-2, log_every=1)
    for _ in range(2):
        torch.manual_seed(0)
        head = DraftHead(identify(model), 8, 2)
        records = train_draft_head(model, head, batches, None, config, tmp_path, Hooks())
    assert [record["step"] for record in records] == [1, 2, 3, 4]
    assert DraftHead.from_pretrained(tmp_path / "draft_head").ahead == 2
    with pytest.raises(ValueError, match="other settings"):
        train_draft_head(model, DraftHead(identify(model), 8, 3), batches, None, config, tmp_path, Hooks())


def test_a_head_of_another_model_and_damaged_files_are_refused(model, make_model, trained, tmp_path):
    with pytest.raises(DraftHeadMismatchError, match="train one with `erecap train-draft-head`"):
        DraftHead.from_pretrained(trained, identify(make_model(2, 4, 2)))
    with pytest.raises(ValueError, match="holds no draft head"):
        DraftHead.from_pretrained(tmp_path)
    DraftHead.from_pretrained(trained).save_pretrained(tmp_path)
    weights = (tmp_path / WEIGHTS_FILE).read_bytes()
    (tmp_path / WEIGHTS_FILE).write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(ValueError, match="is not the file that was written with"):
        DraftHead.from_pretrained(tmp_path)
    (tmp_path / CONFIG_FILE).write_text("{")
    with pytest.raises(ValueError, match="copy the draft head again"):
        DraftHead.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="width=0"):
        DraftHead(identify(model), 0)


def backend_of(model_dir: str, **options: str) -> SessionBackend:
    fixed = {"model": model_dir, "dtype": "float32", "device": "cpu"}
    backend = make_backend(BackendSpec("baseline-session", tuple({**fixed, **options}.items())))
    assert isinstance(backend, SessionBackend)
    return backend


def test_a_backend_takes_a_head_and_gives_the_same_plans(model_dir, tmp_path):
    loaded = load_model(model_dir, "float32", "cpu")
    torch.manual_seed(0)
    DraftHead(loaded.identity, 16, 3).save_pretrained(tmp_path)
    prompt = build_prompt(History().append("task", "Find a key.").append("observation", "You see a box."))
    plain = backend_of(model_dir).generate(prompt, Sampling(12))
    for draft in ("head", "plan+context+head"):
        headed = backend_of(model_dir, draft=draft, draft_head=str(tmp_path))
        assert headed.generate(prompt, Sampling(12)).token_ids == plain.token_ids


def test_a_head_that_is_missing_is_refused_where_it_is_asked_for(model_dir, tmp_path):
    backend_of(model_dir)
    with pytest.raises(ValueError, match=r"draft_head=DIR"):
        backend_of(model_dir, draft="plan+head")
    with pytest.raises(ValueError, match="holds no draft head"):
        backend_of(model_dir, draft_head=str(tmp_path))
    with pytest.raises(ValueError, match="has no effect"):
        backend_of(model_dir, draft="plan", draft_head=str(tmp_path))
    with pytest.raises(ValueError, match="need a draft head"):
        SessionBackend(load_model(model_dir, "float32", "cpu"), backend_of(model_dir).schedule, drafts=("head",))


def test_the_command_makes_a_head_of_texts(invoke, model_dir, tmp_path):
    texts = tmp_path / "texts.jsonl"
    pairs = [
        {"instruction": f"Say {word} twice.", "response": f"{word} {word} and {word} again"} for word in ("key", "box", "door")
    ]
    texts.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    settings = ["--steps", "4", "--eval-every", "2", "--held-out", "0.4", "--width", "16", "--ahead", "2"]
    done = invoke("train-draft-head", "--model", model_dir, "--data", texts, *settings, "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    last = json.loads(done.stdout.splitlines()[-1])
    assert DraftHead.from_pretrained(last["draft_head"]).width == 16
    assert {"loss", "right", "run"} <= last["last"]["eval"].keys()
