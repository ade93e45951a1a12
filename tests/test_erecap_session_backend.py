"""The backends that keep sessions: over whole episodes and under every way to decode they answer as the plain engine does."""

import pytest
import torch

from agents.job import EpisodeJob
from agents.loop import AgentConfig, run_episode
from benchmarks.runs.suites import SUITES
from erecap.answering import session as session_module
from erecap.answering.engine import EngineBackend
from erecap.answering.session import SessionBackend
from erecap.backend import encode_prompt, make_backend
from erecap.calibration.thresholds import Fit, add_fits
from erecap.engine.decode import DecodeOptions
from erecap.models.loading import load_model
from erecap.models.pruner import TokenPruner
from erecap.schedule import PruneSchedule
from erecap.sessions import ReplanSession
from planner import BackendSpec, Generation, History, PlannerBackend, PlanRequest, Prompt, Sampling, build_prompt
from planner.backend import LineCallback, PromptTooLongError

GREEDY = Sampling(max_new_tokens=20)
WAYS = {
    "greedy": GREEDY,
    "past the end": Sampling(30, ignore_eos=True),
    "sampled": Sampling(20, temperature=0.8, seed=5),
    "avoiding": Sampling(20, avoid=("\x17", "explore", "goto")),
}


def backend_of(spec: str, **options: str) -> EngineBackend | SessionBackend:
    parsed = BackendSpec.parse(spec)
    fixed = {"dtype": "float32", "device": "cpu", **options}
    backend = make_backend(BackendSpec(parsed.name, (*parsed.options.items(), *fixed.items())))
    assert isinstance(backend, EngineBackend | SessionBackend)
    return backend


@pytest.fixture(scope="module")
def pruner_dir(model_dir, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("pruner")
    schedule = PruneSchedule.for_depth(4, 0.5)
    torch.manual_seed(0)
    TokenPruner(load_model(model_dir, "float32", "cpu").identity, schedule.layers).save_pretrained(path)
    add_fits(str(path), [Fit(schedule.by_rule("threshold", [0.0, 0.0]).stages, 1, 1, "none")])
    return str(path)


@pytest.fixture(scope="module")
def baseline(model_dir) -> EngineBackend | SessionBackend:
    return backend_of("baseline", model=model_dir)


@pytest.fixture
def session(model_dir) -> EngineBackend | SessionBackend:
    return backend_of("baseline-session", model=model_dir)


def begin(task: str = "Put the red ball in the kitchen.", hall: str = "You are in the hall. You see a box and a door.") -> History:
    return History().append("task", task).append("observation", hall)


def grown(history: History, answer: str, turn: int) -> History:
    return history.append("plan", answer or "explore").append("observation", f"You are in the hall. You see box {turn} and a key.")


def histories(turns: int, task: str = "Put the red ball in the kitchen.") -> list[Prompt]:
    history, prompts = begin(task), list[Prompt]()
    for turn in range(turns):
        prompts.append(build_prompt(history))
        history = grown(history, "goto box\nexplore", turn)
    return prompts


class Recorder:
    """A backend that passes everything on and keeps the answers."""

    def __init__(self, backend: PlannerBackend) -> None:
        self.backend, self.answers = backend, list[Generation]()

    def generate(self, prompt: Prompt, sampling: Sampling, on_line: LineCallback | None = None) -> Generation:
        self.answers.append(self.backend.generate(prompt, sampling, on_line))
        return self.answers[-1]


def played(backend: PlannerBackend, job: EpisodeJob, max_replans: int) -> list[Generation]:
    recorder = Recorder(backend)
    run_episode(job, recorder, AgentConfig(max_replans=max_replans), lambda record: None)
    return recorder.answers


def ids_of(answers: list[Generation]) -> list[tuple[int, ...]]:
    return [answer.token_ids for answer in answers]


@pytest.mark.parametrize(
    ("horizon", "specs"), [("subgoal", ["baseline-session", "erecap-session?keep=1"]), ("task", ["baseline-session"])]
)
def test_an_episode_is_planned_as_without_a_session(horizon, specs):
    """``erecap-session?keep=1`` judges tokens and drops none."""
    job = EpisodeJob("test", "ERecap/HouseholdSmall-v0", 3, horizon=horizon)
    expected = played(backend_of("baseline"), job, 4)
    assert len(expected) > 2
    for spec in specs:
        found = played(backend_of(spec), job, 4)
        assert ids_of(found) == ids_of(expected)
        assert [answer.layer_tokens for answer in found] == [answer.layer_tokens for answer in expected]
        assert found[0].reused_tokens == 0
        assert all(2 * answer.reused_tokens > answer.prompt_tokens for answer in found[1:])


@pytest.mark.slow
@pytest.mark.parametrize("horizon", ["subgoal", "task"])
@pytest.mark.parametrize("suite", [name for name in SUITES if name not in ("textworld", "scienceworld")])  # these need Java
def test_an_episode_of_every_suite_is_planned_as_without_a_session(suite, horizon):
    """One backend plays the environments of a suite in turn, without a reset."""
    one = SUITES[suite]
    baseline, session = backend_of("baseline"), backend_of("baseline-session")
    for number, env_id in enumerate(one.env_ids):
        job = EpisodeJob("test", env_id, 1_000_000 + number, one.verbosity, None, horizon)
        expected, found = played(baseline, job, 12), played(session, job, 12)
        assert ids_of(found) == ids_of(expected)
        assert sum(answer.reused_tokens for answer in found) > 0 or len(found) == 1


@pytest.mark.parametrize(("way", "trim"), [*((way, {}) for way in WAYS), ("greedy", {"last": "2"}), ("greedy", {"mask": "2"})])
def test_growing_histories_are_answered_as_without_a_session(model_dir, way, trim):
    sampling = WAYS[way]
    session, expected = (backend_of(name, model=model_dir, **trim) for name in ("baseline-session", "baseline"))
    history, reused = begin(), []
    for turn in range(4):
        found, plain = (one.generate(build_prompt(history), sampling) for one in (session, expected))
        assert found.token_ids == plain.token_ids
        assert (found.layer_tokens, found.kv_bytes) == (plain.layer_tokens, plain.kv_bytes)
        reused.append(found.reused_tokens)
        history = grown(history, found.text, turn)
    assert reused[0] == 0
    assert all(reused[1:])
    if not trim:
        assert reused == sorted(set(reused))


def test_an_avoided_beginning_changes_the_answer(session):
    prompt = histories(1)[0]
    first = session.generate(prompt, GREEDY)
    line = next(line for line in first.text.split("\n") if line.strip())
    assert session.generate(prompt, Sampling(20, avoid=(line,))).token_ids != first.token_ids


def test_rewritten_histories_are_answered_as_by_a_fresh_backend(session, baseline):
    long = histories(4)
    rewritten = build_prompt(grown(grown(begin(), "goto box\nexplore", 0), "drop", 7))
    prompts = [long[3], histories(4, "Open the door.")[3], long[3], rewritten, build_prompt(begin("Find a key.", "Dark.")), long[1]]
    for prompt in prompts:
        assert session.generate(prompt, GREEDY).token_ids == baseline.generate(prompt, GREEDY).token_ids


def test_a_history_that_outgrows_the_model_is_refused_when_it_is_asked_for(session):
    most = session.loaded.model.config.max_position_embeddings
    long = build_prompt(begin(hall="You see a box. " * most))
    session.generate(histories(1)[0], GREEDY)
    session.observe(long)
    with pytest.raises(PromptTooLongError, match=f"exceed the model's {most} positions"):
        session.generate(long, GREEDY)


def test_a_reset_forgets_all(session):
    prompts = histories(2)
    session.generate(prompts[0], GREEDY)
    assert session.sessions.kv_bytes > 0
    session.reset()
    assert session.sessions.kv_bytes == len(session.sessions) == 0
    assert session.generate(prompts[1], GREEDY).reused_tokens == 0


@pytest.mark.parametrize(("rule", "megabytes"), [("chunk_top_k", "512"), ("chunk_top_k", "0.001"), ("threshold", "512")])
def test_pruned_agents_get_what_a_session_of_their_own_gives_them(model_dir, pruner_dir, rule, megabytes):
    """Two agents in turn, with one budget that holds both, and one that holds none but the one in use."""
    spec = f"erecap-session?keep=0.5&rule={rule}"
    backend = backend_of(spec, model=model_dir, pruner=pruner_dir, kv_budget_mb=megabytes)
    tasks = ["Put the red ball in the kitchen.", "Open the blue door of the cellar."]
    own = {task: ReplanSession(backend.loaded.model, backend.schedule, backend.selector) for task in tasks}
    dropped = 0
    for turn in range(3):
        for task in tasks:
            prompt = histories(turn + 1, task)[turn]
            found = backend.generate(prompt, GREEDY)
            made = own[task].extend(encode_prompt(backend.chat, prompt))
            assert found.layer_tokens == made.layer_tokens
            assert found.kv_bytes == made.kv_bytes
            assert found.stage_tokens == made.layer_tokens[2:]
            assert list(found.token_ids) == list(own[task].plan(DecodeOptions(20, eos_ids=backend.loaded.eos_ids)))
            dropped += found.dropped_tokens
    assert dropped > 0
    assert (backend.sessions.rebuilt > 0) == (megabytes != "512")


TASKS = ["Put the red ball in the kitchen.", "Open the blue door of the cellar, which is behind the hall.", "Find a key."]


def facts(answer: Generation) -> tuple[object, ...]:
    return answer.token_ids, answer.layer_tokens, answer.stage_tokens, answer.kv_bytes, answer.prompt_tokens, answer.truncated


@pytest.mark.parametrize("least", [2, 9], ids=["in one batch", "one by one"])
@pytest.mark.parametrize(
    ("spec", "megabytes"), [("baseline-session", "512"), ("erecap-session?keep=0.5", "512"), ("erecap-session?keep=0.5", "0.001")]
)
def test_prompts_of_several_agents_get_what_each_gets_alone(model_dir, pruner_dir, monkeypatch, spec, megabytes, least):
    """Three agents, one of which may not write what it would; the small budget holds one session at a time."""
    monkeypatch.setattr(session_module, "TOGETHER_FROM", {"cpu": least})
    pruner = {"pruner": pruner_dir} if "keep" in spec else {}
    together, alone = (backend_of(spec, model=model_dir, kv_budget_mb=megabytes, **pruner) for _ in range(2))
    counts = set[int]()
    hook = together.loaded.model.get_input_embeddings().register_forward_hook(lambda _, ids, out: counts.add(out.shape[0]))
    ways, agents = [GREEDY, WAYS["avoiding"], GREEDY], [begin(task) for task in TASKS]
    for turn in range(3):
        requests = [PlanRequest(build_prompt(agent), way) for agent, way in zip(agents, ways, strict=True)]
        found = together.generate_batch(requests)
        expected = [alone.generate(one.prompt, one.sampling) for one in requests]
        assert [facts(one) for one in found] == [facts(one) for one in expected]
        if least == 2:  # alone, prefix caches of agents with short histories take over each other's
            assert all((one.reused_tokens > 0) == (turn > 0 and megabytes == "512") for one in found)
        agents = [grown(agent, answer.text, turn) for agent, answer in zip(agents, found, strict=True)]
    hook.remove()
    assert max(counts) == (3 if least == 2 and megabytes == "512" else 1)
    assert together.generate_batch([]) == []


def test_two_prompts_for_one_session_and_settings_of_their_own(session, baseline, monkeypatch):
    monkeypatch.setattr(session_module, "TOGETHER_FROM", {"cpu": 2})
    one, other, lines = histories(2)[1], histories(2, TASKS[1])[1], list[str]()
    requests = [PlanRequest(one, GREEDY), PlanRequest(one, GREEDY), PlanRequest(other, GREEDY, lines.append)]
    requests += [PlanRequest(other, WAYS["sampled"]), PlanRequest(one, WAYS["past the end"])]
    found = session.generate_batch(requests)
    assert ids_of(found) == [baseline.generate(each.prompt, each.sampling).token_ids for each in requests]
    assert lines == [line for line in found[2].complete_text.split("\n") if line.strip()]


class BrokenLayerError(Exception):
    pass


@pytest.mark.parametrize("call", [0, 5])
def test_an_error_under_way_leaves_the_next_answer_right(session, baseline, call):
    prompts, left = histories(3), [call]
    session.generate(prompts[0], GREEDY)

    def fail(*_: object) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise BrokenLayerError

    hook = session.loaded.model.model.layers[1].register_forward_hook(fail)
    with pytest.raises(BrokenLayerError):
        session.generate(prompts[1], WAYS["past the end"])
    hook.remove()
    for prompt in prompts[1:]:
        assert session.generate(prompt, GREEDY).token_ids == baseline.generate(prompt, GREEDY).token_ids


def test_a_listener_that_fails_leaves_the_next_answer_right(session, baseline):
    def fail(line: str) -> None:
        raise BrokenLayerError

    prompts = histories(2)
    drawn = (Sampling(200, temperature=2.0, seed=seed, ignore_eos=True) for seed in range(20))
    sampling = next(one for one in drawn if "\n" in baseline.generate(prompts[0], one).text.strip())
    with pytest.raises(BrokenLayerError):
        session.generate(prompts[0], sampling, fail)
    for prompt in prompts:
        assert session.generate(prompt, GREEDY).token_ids == baseline.generate(prompt, GREEDY).token_ids


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("erecap-session?rule=top_k", "rule=chunk_top_k"),
        ("erecap-session?selector=attention", "tokenwise"),
        ("erecap-session?budget_ms=300", "unknown option budget_ms"),
        ("baseline-session?keep=0.5", "unknown option keep"),
        ("baseline-session?kv_budget_mb=0", "kv_budget_mb=0 .*positive"),
        ("erecap-session?kv_budget_mb=-3", "kv_budget_mb=-3 .*positive"),
        ("baseline-session?kv_budget_mb=nan", "kv_budget_mb=nan .*positive"),
        ("baseline-session?kv_budget_mb=inf", "kv_budget_mb=inf .*positive"),
        ("baseline-session?kv_budget_mb=much", "kv_budget_mb='much' is not a number"),
    ],
)
def test_what_a_session_cannot_do_is_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        backend_of(spec)
