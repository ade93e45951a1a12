"""Spec strings to backends."""

import pickle

import pytest

from benchmarks.backends.models import describe_models
from benchmarks.backends.registry import BackendFactory, backend_names, choose_reference, parse_specs, runs_model
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


def test_a_backend_of_ones_own_is_made_by_import_path(fakes):
    (spec,) = parse_specs("own_planner:make?skill=goto kitchen")
    factory = pickle.loads(pickle.dumps(BackendFactory()))
    assert factory(spec).generate(ASK, Sampling()).text == "goto kitchen"
    assert factory("own_planner:Scripted").generate(ASK, Sampling()).text == "explore", "a class is a factory too"


def test_a_backend_of_ones_own_runs_a_model_here_where_it_has_loaded(fakes):
    specs = ["own_planner:make", "own_planner:make_model"]
    described = describe_models(specs, BackendFactory())
    assert [runs_model(spec) for spec in specs] == [False, False], "the text alone does not say"
    assert described == {specs[0]: {}, specs[1]: {"name": "fake", "model": "0123", "dtype": "float32", "device": "cpu"}}
    assert choose_reference(["expert", *specs], [specs[1]]) == specs[1]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("no_such_package.planner:make", "no module 'no_such_package': install its package, or put its folder on PYTHONPATH"),
        ("own_planner.inner:make", "no module 'own_planner.inner'"),
        ("own_planner:build", "has no attribute 'build': write my_package.module:factory"),
        ("own_planner:NUMBER", "cannot call its attribute 'NUMBER'"),
        ("own_planner:", "no import path"),
        (":make", "no import path"),
        ("a b:make", "no import path"),
    ],
)
def test_an_import_path_that_leads_nowhere_is_refused_before_anything_is_made(fakes, spec, message):
    with pytest.raises(ValueError, match=message):
        parse_specs(spec)


def test_a_factory_that_returns_no_backend_is_refused(fakes):
    with pytest.raises(ValueError, match=r"returned None, which has no method generate.*return a planner\.PlannerBackend"):
        BackendFactory()("own_planner:make_nothing")


def test_an_import_error_inside_a_users_module_is_not_hidden(fakes):
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        parse_specs("broken_planner:make")
