"""Models over several devices: a device map gives what one device gives, and a map that does not fit is refused."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from erecap import DecodeOptions, PruneSchedule, SelectorContext, TokenizedPrompt, decode, make_selector, prefill
from erecap.backend import make_backend
from erecap.distributed.device_map import DeviceMapError, complete, describe, read_device_map, summarize
from erecap.models import placement as placement_module
from erecap.models.device import OutOfMemoryError
from erecap.models.identity import identify
from erecap.models.loading import ModelNotFoundError, load_model, load_pruner, read_config
from erecap.models.placement import PlacementError, PlacementOptions
from erecap.models.pruner import TokenPruner
from planner import BackendSpec, Prompt, Sampling, Segment

PROMPT = Prompt(
    (
        Segment("system", "You are in the hall.", protected=True),
        *(Segment("user", f"You see a red ball, a blue box and a key number {number}.") for number in range(9)),
        Segment("user", "Put the ball in the box!", protected=True),
    )
)
SAMPLING = Sampling(max_new_tokens=12, ignore_eos=True)
PARTS = ("model.embed_tokens", "model.norm", "lm_head")
SPLIT = dict.fromkeys(PARTS, "disk") | {f"model.layers.{number}": ("cpu", "disk")[number % 2] for number in range(4)}
RULES = [PruneSchedule.after((0, 2), 0.6), PruneSchedule.after((0, 2), 0.6).by_rule("chunk_top_k")]
RULES.append(RULES[0].by_rule("threshold", (0.0, 0.1)))


@pytest.fixture
def write(tmp_path):
    """``write(map)``: the path of a JSON file that holds the map, or the text."""

    def written(content):
        path = tmp_path / "map.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return written


@pytest.mark.parametrize(
    "spec",
    ["baseline?", "hf-generate?", "erecap?selector=random&stages=0+2&keep=0.6&", "erecap?selector=attention&stages=0+2&keep=0.6&"],
)
def test_a_model_on_cpu_and_disk_answers_as_a_whole_one(model_dir, write, spec):
    def answer(where):
        backend = make_backend(BackendSpec.parse(f"{spec}model={model_dir}&dtype=float32&{where}"))
        return backend, backend.generate(PROMPT, SAMPLING)

    _, whole = answer("device=cpu")
    backend, split = answer(f"device_map={write(SPLIT)}")
    assert any(weight.is_meta for weight in backend.loaded.model.parameters())
    assert (split.token_ids, split.layer_tokens, split.kv_bytes) == (whole.token_ids, whole.layer_tokens, whole.kv_bytes)
    assert (split.layer_tokens[-1] < split.prompt_tokens) == spec.startswith("erecap")


def test_logits_and_kept_positions_of_a_learned_selector_are_those_of_a_whole_model(model_dir, tmp_path):
    whole = load_model(model_dir, "float32", "cpu")
    split = load_model(model_dir, "float32", placement=PlacementOptions(device_map=SPLIT))
    TokenPruner(identify(whole.model), (0, 2)).save_pretrained(tmp_path)
    prompts = [TokenizedPrompt.from_ids(np.random.default_rng(length).integers(3, 320, length)) for length in (90, 50)]

    def run(loaded):
        context = SelectorContext(RULES[0], load_pruner(tmp_path, loaded), model=loaded.model)
        start = prefill(loaded.model, prompts, RULES[0], make_selector("learned", context))
        return start.logits, start.stages, list(decode(loaded.model, start, DecodeOptions(6)))

    (logits, stages, tokens), (wanted, wanted_stages, wanted_tokens) = run(split), run(whole)
    torch.testing.assert_close(logits, wanted)
    assert tokens == wanted_tokens
    for stage, other in zip(stages, wanted_stages, strict=True):
        assert torch.equal(stage.positions, other.positions)


class Spy:
    """A selector that notes the devices of what it is given and returns."""

    def __init__(self, selector, places):
        self.selector, self.places, self.seen = selector, places, []

    def score(self, hidden, positions, stage_index, lengths):
        scores = self.selector.score(hidden, positions, stage_index, lengths)
        self.seen.append({self.places.of(tensor) for tensor in (hidden, positions, lengths, scores)})
        return scores


@pytest.mark.parametrize("schedule", RULES, ids=lambda schedule: schedule.rule)
def test_a_stage_works_where_its_layer_computes(places, make_model, schedule):
    """Layers 0 and 1 are on one device, 2 and 3 on another one; a function that mixes tensors of both fails."""
    whole, split = make_model(layers=4), make_model(layers=4, seed=1)
    split.load_state_dict(whole.state_dict())
    devices, decoder = places.Places(), split.get_decoder()
    for module in (decoder.embed_tokens, decoder.rotary_emb, *decoder.layers[:2]):
        devices.put(module, places.HERE)
    for module in (*decoder.layers[2:], decoder.norm, split.get_output_embeddings()):
        devices.put(module, places.THERE)
    pruner = TokenPruner(identify(whole), (0, 2))
    prompts = [TokenizedPrompt.from_ids(np.random.default_rng(length).integers(3, 320, length)) for length in (90, 50)]

    def run(model):
        spy = Spy(make_selector("learned", SelectorContext(schedule, pruner, model=model)), devices)
        start = prefill(model, prompts, schedule, spy)
        kept = [devices.of(stage.positions) for stage in start.stages]
        return spy.seen, kept, start.logits, list(decode(model, start, DecodeOptions(5)))

    _, _, logits, tokens = run(whole)
    with devices, torch.no_grad():
        seen, kept, split_logits, split_tokens = run(split)
    assert seen == [{places.HERE}, {places.THERE}]
    assert kept == [places.HERE, places.THERE]
    torch.testing.assert_close(split_logits, logits)
    assert split_tokens == tokens


def test_auto_puts_on_disk_what_does_not_fit_and_the_facts_say_so(model_dir):
    spec = BackendSpec.parse(f"baseline?model={model_dir}&dtype=float32&device_map=auto&max_memory=cpu:400KB")
    loaded = make_backend(spec).loaded
    assert loaded.spread["device_map"].startswith("cpu: model.embed_tokens, model.layers.0")
    assert "; disk: model.layers." in loaded.spread["device_map"]
    assert any(weight.is_meta for weight in loaded.model.parameters())


def test_balanced_on_a_machine_without_gpus_is_one_device(model_dir):
    loaded = load_model(model_dir, "float32", placement=PlacementOptions(device_map="balanced"))
    assert (loaded.spread, loaded.devices) == ({"device_map": "cpu: all"}, (torch.device("cpu"),))


def test_rotary_tables_go_with_the_embedding_where_a_map_leaves_them_out(model_dir):
    assert complete(SPLIT, read_config(model_dir), 0) == SPLIT | {"model.rotary_emb": "disk"}
    assert complete({"": "cpu"}, read_config(model_dir), 0) == {"": "cpu"}


def without(name):
    return {key: device for key, device in SPLIT.items() if key != name}


@pytest.mark.parametrize(
    ("device_map", "message"),
    [
        (SPLIT | {"model.layer.0": "cpu"}, r"'model\.layer\.0', which the model does not have: did you mean 'model\.layers\.0'"),
        (SPLIT | {"quite else": "cpu"}, r"which the model does not have: names are those of model\.named_modules\(\)"),
        (SPLIT | {"lm_head": 3}, "names GPU 3 and this machine has 2 .numbers 0 to 1"),
        (without("model.layers.3") | {"model.layers.3.mlp": "cpu"}, r"leaves out model\.layers\.3"),
        (without("lm_head"), "leaves out lm_head: give every module with weights a device"),
        (SPLIT | {"model.layers.2.mlp": 0}, r"splits model\.layers\.2 over several devices"),
    ],
)
def test_a_map_that_does_not_fit_is_refused_before_weights_are_read(model_dir, monkeypatch, device_map, message):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr("erecap.models.loading._load", lambda *_: pytest.fail("weights were read"))
    with pytest.raises(DeviceMapError, match=message):
        load_model(model_dir, "float32", placement=PlacementOptions(device_map=device_map))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ([1], "holds no device map: write a JSON object"),
        ({"model": "tpu"}, "device 'tpu' of 'model' is not known: write the number of a GPU, 'cpu' or 'disk'"),
        ({"model": True}, "device True of 'model' is not known"),
    ],
)
def test_a_file_that_is_no_map_is_refused(write, content, message):
    with pytest.raises(DeviceMapError, match=message):
        read_device_map(write(content))


def test_devices_may_be_written_as_torch_does(write):
    assert read_device_map(write({"a": "cuda:1", "b": "cuda", "c": 2, "d": "3"})) == {"a": 1, "b": 0, "c": 2, "d": 3}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("device_map=nowhere.json", r"cannot be read .*: use auto or balanced, or name a JSON file"),
        ("device=cpu&device_map=auto", "both say where the model goes"),
        ("offload_folder=off", "offload_folder means nothing without a device map: give device_map=auto too"),
        ("max_memory=cpu:1GiB", "max_memory means nothing without a device map"),
        ("device_map=auto&max_memory=lots", r"max_memory='lots' cannot be read: write it by GPU number or cpu, such as 0:20GiB\+"),
        ("device_map=auto&max_memory=cpu:1GiB+cpu:2GiB", "cannot be read"),
    ],
)
def test_options_that_mean_nothing_are_refused(model_dir, options, message):
    with pytest.raises(ValueError, match=message):
        make_backend(BackendSpec.parse(f"baseline?model={model_dir}&{options}"))


def test_a_limit_beside_a_map_of_one_s_own_is_refused(model_dir):
    with pytest.raises(DeviceMapError, match="max_memory is for device_map=auto or balanced"):
        load_model(model_dir, placement=PlacementOptions(device_map=SPLIT, max_memory={"cpu": "1GiB"}))


def test_a_machine_without_accelerate_says_what_to_install(model_dir, monkeypatch):
    monkeypatch.setattr(placement_module, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install accelerate"):
        load_model(model_dir, placement=PlacementOptions(device_map="auto"))


def test_a_map_is_written_in_short():
    devices = {"model.embed_tokens": 0, **{f"model.layers.{n}": "cuda:0" if n < 5 else 1 for n in range(7)}, "lm_head": "cpu"}
    assert describe(devices) == "0: model.embed_tokens, model.layers.0-4; 1: model.layers.5-6; cpu: lm_head"
    assert summarize(["a.0", "a.2", "a.3", "b.4", "c"]) == "a.0, a.2-3, b.4, c"


def test_times_of_a_spread_model_are_of_a_setting_of_their_own(model_dir):
    from erecap.calibration.cost_model import Setting

    loaded = load_model(model_dir, "float32", "cpu")
    spread = replace(loaded, spread={"device_map": "cpu: all"})
    assert not Setting.of(spread, "random").matches(Setting.of(loaded, "random"))


@pytest.fixture
def own_dir(model_dir, tmp_path):
    """A copy of the tiny model, which no other test has loaded and shares."""
    return shutil.copytree(model_dir, tmp_path / "model")


def test_what_transformers_refuses_is_no_missing_model(own_dir, monkeypatch):
    def refuse(*args, **options):
        raise ValueError("please provide an `offload_folder`")

    monkeypatch.setattr("erecap.models.loading.AutoModelForCausalLM.from_pretrained", refuse)
    with pytest.raises(PlacementError, match=r"cannot put .* there \(please provide an `offload_folder`\): name other devices"):
        load_model(own_dir, "float32", placement=PlacementOptions(device_map=SPLIT))
    with pytest.raises(ModelNotFoundError):
        load_model(own_dir, "float32", "cpu")


def test_a_gpu_that_is_full_while_weights_are_read_says_so(own_dir, monkeypatch):
    def fill(*args, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("erecap.models.loading.AutoModelForCausalLM.from_pretrained", fill)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    with pytest.raises(OutOfMemoryError, match="ran out of memory in loading"):
        load_model(own_dir, "float32", placement=PlacementOptions(device_map=SPLIT))
