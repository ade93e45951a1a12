"""The engine behind the planner's protocol: what each backend answers and records, and what it refuses."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.backends.models import ceiling_of, describe_models
from benchmarks.backends.registry import BackendFactory
from benchmarks.output.files import checksum
from erecap.backend import BACKENDS, make_backend
from erecap.calibration.cost_model import CostModel, Setting
from erecap.calibration.thresholds import CALIBRATION_FILE, Fit, add_fits
from erecap.engine.rules import RULES
from erecap.models.loading import load_model
from erecap.models.pruner import TokenPruner
from erecap.schedule import PruneSchedule
from planner import BackendSpec, History, PlannerBackend, Prompt, Sampling, StatefulBackend, build_prompt
from planner.trimming import TRIMS

GREEDY = Sampling(max_new_tokens=40)


def spec_of(name: str, model_dir: str, **options: str) -> BackendSpec:
    return BackendSpec(name, tuple({"model": model_dir, "dtype": "float32", "device": "cpu", **options}.items()))


@pytest.fixture(scope="module")
def pruner_dir(model_dir, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("pruner")
    stages = [stage.after_layer for stage in PruneSchedule.for_depth(4, 0.7).stages]
    torch.manual_seed(0)
    TokenPruner(load_model(model_dir, "float32", "cpu").identity, stages).save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request, model_dir, pruner_dir) -> PlannerBackend:
    options = {"pruner": pruner_dir} if request.param.startswith("erecap") else {}
    return make_backend(spec_of(request.param, model_dir, **options))


@pytest.fixture(scope="module")
def prompt() -> Prompt:
    history = History().append("task", "Put the red ball in the kitchen.")
    for turn in range(8):
        history = history.append("observation", f"You are in the hall. You see box {turn}.").append("plan", "goto box\nexplore")
    return build_prompt(history.append("observation", "You see a key."))


def test_what_keeps_earlier_prompts_can_forget_them(backend, prompt):
    """The paired replay asks whoever has no ``reset`` twice, and times the second answer."""
    first, second = (backend.generate(prompt, GREEDY) for _ in range(2))
    assert second.token_ids == first.token_ids
    assert bool(second.reused_tokens) == isinstance(backend, StatefulBackend)
    if isinstance(backend, StatefulBackend):
        backend.reset()
        again = backend.generate(prompt, GREEDY)
        assert (again.reused_tokens, again.token_ids) == (0, first.token_ids)


def test_keeps_the_protocol(backend, prompt):
    lines = []
    answer = backend.generate(prompt, GREEDY, lines.append)
    assert isinstance(backend, PlannerBackend)
    assert 1 <= answer.new_tokens == len(answer.token_ids) <= GREEDY.max_new_tokens
    assert lines == [line for line in answer.complete_text.split("\n") if line.strip()]
    assert "<|im" not in answer.text
    assert 0 < answer.tokenize_s < answer.ttft_s <= answer.first_skill_s <= answer.total_s
    assert answer.ttft_s + answer.decode_s <= answer.total_s
    assert answer.layer_tokens[0] == answer.prompt_tokens
    assert answer.kv_bytes == sum(2 * tokens * 16 * 4 for tokens in answer.layer_tokens)
    assert answer.peak_memory_bytes > 0


def test_is_deterministic_greedy_and_sampled(backend, prompt):
    for sampling in (GREEDY, Sampling(20, temperature=1.0, seed=3)):
        assert backend.generate(prompt, sampling).token_ids == backend.generate(prompt, sampling).token_ids
    state = torch.random.get_rng_state()
    backend.generate(prompt, Sampling(5, temperature=1.0, seed=4))
    assert torch.equal(state, torch.random.get_rng_state())


def test_ignore_eos_decodes_a_fixed_number(backend, prompt):
    answer = backend.generate(prompt, Sampling(100, ignore_eos=True))
    assert answer.new_tokens == 100


def test_too_long_a_prompt_says_what_to_do(backend, prompt):
    with pytest.raises(ValueError, match=r"1024 positions.*shorten the history"):
        backend.generate(prompt, Sampling(1000))


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(60, ignore_eos=True), Sampling(30, temperature=0.8, seed=1)])
def test_baseline_equals_hf_generate(model_dir, prompt, sampling):
    ours, stock = (make_backend(spec_of(name, model_dir)).generate(prompt, sampling) for name in ("baseline", "hf-generate"))
    assert ours.token_ids == stock.token_ids
    assert ours.text == stock.text
    assert (ours.kv_bytes, ours.layer_tokens) == (stock.kv_bytes, stock.layer_tokens)


def test_the_models_own_generation_defaults_do_not_enter(model_dir, prompt, tmp_path):
    """Qwen2.5's generation config has a repetition penalty and sampling on; a greedy comparison must not inherit them."""
    for file in Path(model_dir).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "generation_config.json").write_text(
        json.dumps({"do_sample": True, "repetition_penalty": 1.5, "top_k": 20, "eos_token_id": 2})
    )
    changed = make_backend(spec_of("hf-generate", str(tmp_path))).generate(prompt, GREEDY)
    assert changed.token_ids == make_backend(spec_of("baseline", model_dir)).generate(prompt, GREEDY).token_ids


def test_erecap_drops_tokens_and_says_so(model_dir, pruner_dir, prompt):
    answer = make_backend(spec_of("erecap", model_dir, pruner=pruner_dir, keep="0.5")).generate(prompt, GREEDY)
    assert answer.stage_tokens == answer.layer_tokens[2:]
    assert answer.dropped_tokens > 0
    assert answer.kept_share < 1.0


@pytest.mark.parametrize("rule", RULES)
def test_rules_are_chosen_by_name(model_dir, pruner_dir, prompt, rule):
    spec = spec_of("erecap", model_dir, pruner=pruner_dir, keep="0.5", rule=rule)
    if rule == "threshold":
        schedule = PruneSchedule.for_depth(4, 0.5)
        add_fits(pruner_dir, [Fit(schedule.by_rule(rule, [0.0, 0.0]).stages, 1, 1, "none")])
    backend = make_backend(spec)
    answer = backend.generate(prompt, GREEDY)
    assert backend.schedule.rule == rule
    assert answer.stage_tokens == answer.layer_tokens[2:]
    assert answer.layer_tokens[-1] < answer.prompt_tokens
    assert answer.kv_bytes == sum(2 * tokens * 16 * 4 for tokens in answer.layer_tokens)
    assert ceiling_of(backend, answer) > 1.0


def test_a_calibration_is_described_with_its_pruner(model_dir, pruner_dir):
    spec = f"erecap?model={model_dir}&dtype=float32&device=cpu&pruner={pruner_dir}&keep=0.9"
    add_fits(pruner_dir, [Fit(PruneSchedule.for_depth(4, 0.9).by_rule("threshold", [0.0, 0.0]).stages, 1, 1, "none")])
    facts = describe_models([spec, f"{spec}&rule=threshold"], lambda text: make_backend(BackendSpec.parse(text)))
    assert "calibration" not in facts[spec]
    assert facts[f"{spec}&rule=threshold"] == {**facts[spec], "calibration": checksum(Path(pruner_dir) / CALIBRATION_FILE)}


def test_thresholds_must_have_been_fitted(model_dir, pruner_dir):
    add_fits(pruner_dir, [])
    with pytest.raises(ValueError, match=r"keep 0\.33 after layers \[1, 2\].*`erecap calibrate --keeps 0\.33 --stages 1\+2`"):
        make_backend(spec_of("erecap", model_dir, pruner=pruner_dir, keep="0.33", rule="threshold"))


def test_random_takes_a_seed(model_dir, prompt):
    def tokens(seed: str) -> tuple[int, ...]:
        spec = spec_of("erecap", model_dir, selector="random", keep="0.8", seed=seed)  # less, and only forced tokens are left
        return make_backend(spec).generate(prompt, Sampling(40, ignore_eos=True)).token_ids

    assert tokens("1") == tokens("1") != tokens("2")


def test_backends_of_one_model_share_it(model_dir):
    first, second = (make_backend(spec_of(name, model_dir)) for name in ("baseline", "hf-generate"))
    assert first.loaded is second.loaded
    assert first.chat is not second.chat


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vllm", {}, "baseline, erecap, .*hf-generate"),
        ("baseline", {"keep": "0.7"}, "unknown option keep; baseline takes model, dtype, device"),
        (
            "erecap",
            {"kepp": "0.7"},
            "unknown option kepp; erecap takes model, dtype, device, .*keep, share, stages, selector, pruner, seed, rule",
        ),
        ("erecap", {"keep": "lots"}, "keep='lots' is not a number"),
        ("erecap", {"keep": "1.7", "selector": "random"}, "keep=1.7 must be in"),
        ("erecap", {"rule": "magic", "selector": "random"}, "the rules are top_k, chunk_top_k, threshold"),
        ("erecap", {"rule": "threshold", "selector": "random"}, "leave the selector out"),
        ("erecap", {"selector": "magic"}, "learned, learned-steps, random, recency"),
        ("erecap", {}, "pruner=DIR"),
        ("erecap", {"pruner": "/nowhere"}, "holds no pruner"),
        ("erecap", {"pruner": "/nowhere", "selector": "random"}, "means nothing to selector=random"),
        ("erecap", {"seed": "3", "selector": "recency"}, "only selector=random takes it"),
        ("erecap", {"share": "0.6", "keep": "0.7"}, "keep=0.7 .at each stage. and share=0.6 .on average. are one choice"),
        ("erecap", {"share": "lots"}, "share='lots' is not a number"),
        ("erecap", {"share": "0.1", "selector": "random"}, "share=0.1 cannot be reached"),
        ("erecap", {"budget_ms": "300", "keep": "0.7"}, "budget_ms chooses stages and ratios for each prompt, keep would fix"),
        ("erecap", {"budget_ms": "300", "keep": "0.7", "stages": "1"}, "keep and stages would fix them: give either"),
        ("erecap", {"budget_ms": "soon"}, "budget_ms='soon' is not a number"),
        ("erecap", {"budget_ms": "0"}, "budget_ms=0 must be positive"),
        ("erecap", {"budget_ms": "nan"}, "budget_ms=nan must be positive"),
        ("erecap", {"cost": "c.json"}, "cost='c.json' means nothing without a budget"),
        (
            "erecap",
            {"budget_ms": "9", "selector": "recency", "cost": "/nowhere/c"},
            "/nowhere/c: measure .*erecap calibrate --cost",
        ),
        ("baseline", {"budget_ms": "300"}, "unknown option budget_ms"),
        ("baseline", {"last": "0"}, "last=0 leaves no observation"),
        ("baseline", {"last": "3", "mask": "3"}, "give one of them"),
        ("baseline", {"mask": "few"}, "mask='few' is not a number"),
        ("baseline", {"dtype": "int4"}, "float32 or bfloat16"),
        ("baseline", {"device": "cuda:9"}, "is not there"),
        ("baseline", {"device": "toaster"}, "is not known"),
    ],
)
def test_bad_specs_say_what_is_wrong(model_dir, name, options, message):
    with pytest.raises(ValueError, match=message):
        make_backend(spec_of(name, model_dir, **options))


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("cut", ["last", "mask"])
def test_what_is_cut_from_the_text_counts_as_dropped(model_dir, pruner_dir, prompt, name, cut):
    options = {"pruner": pruner_dir} if name.startswith("erecap") else {}
    whole = make_backend(spec_of("baseline", model_dir))
    trimmed = make_backend(spec_of(name, model_dir, **options, **{cut: "2"}))
    answer, shown = trimmed.generate(prompt, GREEDY), TRIMS[cut](prompt, 2)
    assert answer.prompt_tokens == whole.generate(prompt, GREEDY).prompt_tokens
    assert answer.layer_tokens[0] == whole.generate(shown, GREEDY).prompt_tokens < answer.prompt_tokens
    assert answer.token_ids == make_backend(spec_of(name, model_dir, **options)).generate(shown, GREEDY).token_ids
    assert answer.kept_share < 1.0
    ceiling = ceiling_of(trimmed, answer)
    assert ceiling is None if isinstance(trimmed, StatefulBackend) else ceiling > 1.0


# ---- budgets -------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def cost_file(model_dir, tmp_path):
    """``cost_file(selector)``: a file by which a prompt takes 0.1 ms per token and layer, 10% more for 9 of 10 of them."""

    def write(selector: str) -> str:
        setting = Setting.of(load_model(model_dir, "float32", "cpu"), selector)
        CostModel(setting, 16, 0.0, 1e-4, 0.0, 0.0, 0.0, 0.0, 0.0, late_p90=1.1).save(tmp_path / f"{selector}.json")
        return str(tmp_path / f"{selector}.json")

    return write


@pytest.fixture
def budgeted(model_dir, pruner_dir, cost_file):
    """``budgeted(ms, selector)``: a backend with that budget, by ``cost_file``."""

    def make(milliseconds: float, selector: str = "learned") -> PlannerBackend:
        options = {"pruner": pruner_dir} if selector == "learned" else {"selector": selector}
        return make_backend(spec_of("erecap", model_dir, budget_ms=str(milliseconds), cost=cost_file(selector), **options))

    return make


def seconds(answer) -> float:
    """What ``cost_file`` says of it."""
    return 1.1e-4 * sum(answer.layer_tokens)


@pytest.mark.parametrize("selector", ["learned", "random", "recency", "key-norm", "attention"])
def test_a_budget_chooses_a_schedule_for_each_prompt(budgeted, prompt, selector):
    short = build_prompt(History().append("task", "Go.").append("observation", "You see a key."))
    whole = budgeted(1e6, selector).generate(prompt, GREEDY)
    limit = 0.8 * seconds(whole)
    backend = budgeted(1000 * limit, selector)
    answer, easy = backend.generate(prompt, GREEDY), backend.generate(short, GREEDY)
    assert (whole.schedule, easy.schedule) == ("none", "none")
    assert answer.schedule.startswith("1-2@0.")
    assert 0.95 * limit < answer.predicted_s <= answer.budget_s == pytest.approx(limit)
    assert answer.predicted_s == pytest.approx(seconds(answer))
    assert (whole.budget_met, answer.budget_met, easy.budget_met) == (True, True, True)
    assert backend.generate(prompt, GREEDY).token_ids == answer.token_ids


def test_what_is_chosen_is_what_the_same_schedule_gives(model_dir, pruner_dir, budgeted, prompt):
    whole = budgeted(1e6).generate(prompt, GREEDY)
    chosen = budgeted(1000 * 0.8 * seconds(whole)).generate(prompt, GREEDY)
    stages, _, keep = chosen.schedule.partition("@")
    fixed = make_backend(spec_of("erecap", model_dir, pruner=pruner_dir, keep=keep, stages=stages)).generate(prompt, GREEDY)
    assert (fixed.token_ids, fixed.layer_tokens, fixed.schedule) == (chosen.token_ids, chosen.layer_tokens, chosen.schedule)
    assert (fixed.budget_s, fixed.predicted_s, fixed.budget_met) == (None, None, None)


def test_earlier_stages_are_for_selectors_that_can_score_there(budgeted, prompt):
    """The pruner knows the seed's stages, 1 and 2; recency can score anywhere."""
    tight = 1000 * 0.48 * seconds(budgeted(1e6).generate(prompt, GREEDY))
    assert budgeted(tight).generate(prompt, GREEDY).schedule == "1-2@0.3"
    assert budgeted(tight, "recency").generate(prompt, GREEDY).schedule.startswith("0-2@")


def test_a_budget_out_of_reach_gives_the_cheapest_and_says_so(budgeted, prompt):
    answer = budgeted(0.001).generate(prompt, GREEDY)
    assert (answer.schedule, answer.budget_met) == ("1-2@0.3", False)
    assert answer.predicted_s == pytest.approx(seconds(answer))
    assert answer.predicted_s > answer.budget_s
    assert answer.new_tokens > 0


def test_times_of_another_selector_are_refused(model_dir, cost_file):
    options = {"selector": "recency", "budget_ms": "300", "cost": cost_file("random")}
    with pytest.raises(ValueError, match=r"selector random.*this is .*selector recency"):
        make_backend(spec_of("erecap", model_dir, **options))


def test_a_runs_configuration_names_the_cost_model(model_dir, pruner_dir, cost_file):
    specs = [
        str(spec_of("erecap", model_dir, pruner=pruner_dir, **more))
        for more in ({}, {"budget_ms": "300", "cost": cost_file("learned")})
    ]
    fixed, chosen = describe_models(specs, BackendFactory()).values()
    assert chosen["pruner"] == fixed["pruner"]
    assert len(chosen["cost"]) == 16
    assert "cost" not in fixed
