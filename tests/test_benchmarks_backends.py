"""Spec strings to backends."""

import pickle

import pytest

from benchmarks.backends.registry import BackendFactory, backend_names, parse_specs, runs_model
from benchmarks.backends.threads import threads_per_worker
from planner import PlannerBackend, Prompt, Sampling, Segment

ASK = Prompt((Segment("user", "Where is the ball?"),))


def test_specs_are_split_and_checked():
    specs = parse_specs(" expert, baseline ,erecap?keep=0.7&selector=random,")
    assert specs == ["expert", "baseline", "erecap?keep=0.7&selector=random"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "name none"), ("expert,expert", "twice"), ("nope", "choose from expert, openai, baseline"), ("erecap?keep", "key=value")],
)
def test_bad_specs_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_specs(text)


def test_names_cover_the_issue():
    assert {"expert", "openai", "baseline", "erecap", "hf-generate"} <= set(backend_names())


def test_which_backends_run_a_model():
    assert [runs_model(spec) for spec in ("expert", "openai?model=m", "baseline", "erecap?keep=0.5")] == [False, False, True, True]


def test_the_factory_makes_the_expert_and_the_engine(model_dir):
    factory = pickle.loads(pickle.dumps(BackendFactory(threads=1)))
    assert isinstance(factory("expert"), PlannerBackend)
    answer = factory(f"baseline?model={model_dir}&dtype=float32").generate(ASK, Sampling(max_new_tokens=2, ignore_eos=True))
    assert answer.new_tokens == 2


@pytest.mark.parametrize(("spec", "message"), [("nope", "choose from"), ("expert?x=1", "takes no parameters")])
def test_the_factory_refuses(spec, message):
    with pytest.raises(ValueError, match=message):
        BackendFactory()(spec)


def test_workers_share_the_cores(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert [threads_per_worker(n) for n in (1, 2, 3, 16)] == [None, 4, 2, 1]
