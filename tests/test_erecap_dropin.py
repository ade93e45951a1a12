"""Pruning stock models: every family against the masked reference, and all that `generate` can do on top."""

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    GenerationConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    StaticCache,
    TextStreamer,
    pipeline,
)

import erecap
from erecap.calibration.thresholds import fit_thresholds
from erecap.dropin.pruned import _visible
from erecap.dropin.pruned_cache import PrunedLayer
from erecap.dropin.reference import reference
from erecap.engine.prefill import prefill
from erecap.engine.rules import RULES
from erecap.models.architecture import UnsupportedModelError
from erecap.models.identity import identify
from erecap.models.pruner import TokenPruner
from erecap.models.tokenization import TokenizedPrompt
from erecap.schedule import PruneSchedule, PruneStage
from erecap.selectors import (
    SELECTORS,
    AttentionSelector,
    LearnedSelector,
    RandomSelector,
    RecencySelector,
    SelectorContext,
    make_selector,
)
from erecap.selectors.projections import Projections

SCHEDULE = PruneSchedule((PruneStage(1, 0.6), PruneStage(3, 0.6)), tail_min=4)
FAMILIES = {"qwen2": Qwen2Config, "qwen3": Qwen3Config, "llama": LlamaConfig, "mistral": MistralConfig}
GREEDY = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None}


def make(family: str = "qwen2", attention: str = "sdpa", dtype: torch.dtype = torch.float32, **changes: object) -> PreTrainedModel:
    sizes = {
        "vocab_size": 320,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "initializer_range": 64**-0.5,
        "tie_word_embeddings": False,
        "sliding_window": None,
    }
    torch.manual_seed(0)
    config = FAMILIES[family](**(sizes | changes))
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=dtype).eval().requires_grad_(False)


def scorer(model: PreTrainedModel, schedule: PruneSchedule = SCHEDULE) -> TokenPruner:
    torch.manual_seed(1)
    return TokenPruner(identify(model), tuple(stage.after_layer for stage in schedule.stages)).eval()


def ids_of(length: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(length).integers(3, 320, (1, length)))


def left_padded(*lengths: int) -> dict[str, torch.Tensor]:
    width = max(lengths)
    ids, mask = torch.zeros(len(lengths), width, dtype=torch.long), torch.zeros(len(lengths), width, dtype=torch.long)
    for row, length in enumerate(lengths):
        ids[row, width - length :], mask[row, width - length :] = ids_of(length)[0], 1
    return {"input_ids": ids, "attention_mask": mask}


def greedy(model: PreTrainedModel, inputs: dict[str, torch.Tensor], tokens: int = 32, **more: object) -> torch.Tensor:
    width = inputs["input_ids"].shape[1]
    return model.generate(**inputs, max_new_tokens=tokens, min_new_tokens=tokens, **(GREEDY | more))[:, width:]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", list(FAMILIES))
@pytest.mark.parametrize("length", [1, 90])
def test_each_family_agrees_with_the_masked_reference(family: str, attention: str, length: int):
    model, ids = make(family, attention), ids_of(length)
    pruner = scorer(model)
    with erecap.pruned(model, pruner, SCHEDULE) as stats:
        made = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=33, output_logits=True, return_dict_in_generate=True, **GREEDY
        )
    tokens = made.sequences[0, length:].tolist()
    wanted = reference(model, TokenizedPrompt.from_ids(ids[0].numpy()), tokens[:-1], SCHEDULE, LearnedSelector(pruner, SCHEDULE))
    torch.testing.assert_close(torch.cat(made.logits), wanted.logits, atol=1e-4, rtol=0)
    assert tokens == wanted.logits.argmax(-1).tolist()
    for kept, expected in zip(stats.prefills[0].kept, wanted.kept, strict=length > 1):
        assert kept[0].tolist() == list(expected)


def by_rule(rule: str, model: PreTrainedModel, pruner: TokenPruner) -> PruneSchedule:
    if rule != "threshold":
        return SCHEDULE.by_rule(rule)
    prompt = TokenizedPrompt.from_ids(ids_of(130)[0].numpy())
    return fit_thresholds(model, [prompt], SCHEDULE, LearnedSelector(pruner, SCHEDULE))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_each_rule_agrees_with_the_masked_reference(rule: str, attention: str):
    model, ids = make(attention=attention), ids_of(90)
    pruner = scorer(model)
    schedule = by_rule(rule, model, pruner)
    with erecap.pruned(model, pruner, schedule) as stats:
        tokens = greedy(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, 33)[0].tolist()
    wanted = reference(model, TokenizedPrompt.from_ids(ids[0].numpy()), tokens[:-1], schedule, LearnedSelector(pruner, SCHEDULE))
    assert tokens == wanted.logits.argmax(-1).tolist()
    assert [kept[0].tolist() for kept in stats.prefills[0].kept] == [list(kept) for kept in wanted.kept]
    assert stats.prefills[0].layer_tokens[0] == (90, 90, *(len(wanted.kept[0]),) * 2, *(len(wanted.kept[1]),) * 2)
    assert len(wanted.kept[1]) < len(wanted.kept[0]) < 90


def test_stats_say_what_was_kept():
    model = make()
    with erecap.pruned(model, scorer(model), SCHEDULE) as stats:
        greedy(model, left_padded(100, 60), 4)
        greedy(model, left_padded(50), 4)
    first, second = stats.prefills
    counts = [[len(row) for row in stage] for stage in first.kept]
    assert counts == [[60, 36], [36, 22]]
    assert first.layer_tokens == ((100, 100, 60, 60, 36, 36), (60, 60, 36, 36, 22, 22))
    assert all(int(stage[1].min()) >= 40 for stage in first.kept)
    assert second.layer_tokens == ((50, 50, 30, 30, 18, 18),)
    assert second.kv_bytes == sum(2 * tokens * 2 * 16 * 4 for tokens in second.layer_tokens[0])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("lengths", [(90, 90), (120, 1, 47, 119)])
@pytest.mark.parametrize("rule", RULES)
def test_a_left_padded_batch_gives_what_its_rows_give_alone(attention: str, lengths: tuple[int, ...], rule: str):
    model = make(attention=attention)
    pruner = scorer(model)
    with erecap.pruned(model, pruner, by_rule(rule, model, pruner)):
        together = greedy(model, left_padded(*lengths))
        alone = torch.cat([greedy(model, left_padded(length)) for length in lengths])
    assert together.tolist() == alone.tolist()


def test_without_stages_tokens_are_the_stock_ones():
    model, inputs = make(), left_padded(80, 33)
    stock = greedy(model, inputs)
    with erecap.pruned(model, None, PruneSchedule.none()):
        assert greedy(model, inputs).tolist() == stock.tolist()


def test_pruned_tokens_are_not_the_stock_ones_and_everything_is_restored():
    model, inputs = make(), left_padded(120)
    stock, before = greedy(model, inputs), [dict(module.__dict__) for module in model.modules()]
    with erecap.pruned(model, scorer(model), SCHEDULE):
        assert greedy(model, inputs).tolist() != stock.tolist()
    assert [module.__dict__ for module in model.modules()] == before
    assert greedy(model, inputs).tolist() == stock.tolist()


def test_an_exception_restores_too():
    model, inputs = make(), left_padded(120)
    stock = greedy(model, inputs)
    with pytest.raises(KeyError), erecap.pruned(model, scorer(model), SCHEDULE):
        raise KeyError
    assert greedy(model, inputs).tolist() == stock.tolist()


def test_two_models_are_pruned_at_once():
    first, second = make(), make("llama")
    inputs = left_padded(100)
    with erecap.pruned(second, scorer(second), SCHEDULE):
        alone = greedy(second, inputs).tolist()
    with erecap.pruned(first, scorer(first), SCHEDULE) as one, erecap.pruned(second, scorer(second), SCHEDULE) as two:
        greedy(first, inputs)
        assert greedy(second, inputs).tolist() == alone
    assert (len(one.prefills), len(two.prefills)) == (1, 1)


def test_a_model_is_not_pruned_twice():
    model = make()
    pruner = scorer(model)
    with (
        erecap.pruned(model, pruner, SCHEDULE),
        pytest.raises(ValueError, match="pruned already"),
        erecap.pruned(model, pruner, SCHEDULE),
    ):
        pass


def test_beams_of_a_batch_are_the_beams_of_its_rows():
    model = make()
    with erecap.pruned(model, scorer(model), SCHEDULE):
        together = greedy(model, left_padded(100, 41), 12, num_beams=3)
        alone = torch.cat([greedy(model, left_padded(length), 12, num_beams=3) for length in (100, 41)])
        single = greedy(model, left_padded(100, 41), 12)
    assert together.tolist() == alone.tolist()
    assert together.tolist() != single.tolist()


def test_beam_scores_are_the_reference_s():
    model, ids = make(), ids_of(80)
    pruner = scorer(model)
    with erecap.pruned(model, pruner, SCHEDULE):
        made = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=8,
            num_beams=3,
            output_scores=True,
            return_dict_in_generate=True,
            **GREEDY,
        )
    tokens = made.sequences[0, 80:].tolist()
    wanted = reference(model, TokenizedPrompt.from_ids(ids[0].numpy()), tokens[:-1], SCHEDULE, LearnedSelector(pruner, SCHEDULE))
    score = wanted.logits.log_softmax(-1).gather(1, torch.tensor(tokens)[:, None]).sum() / len(tokens)
    assert made.sequences_scores.item() == pytest.approx(score.item(), abs=1e-4)


def test_sampling_is_seeded_as_ever():
    model, inputs = make(), left_padded(100)
    with erecap.pruned(model, scorer(model), SCHEDULE):
        torch.manual_seed(5)
        first = greedy(model, inputs, do_sample=True, temperature=1.0)
        torch.manual_seed(5)
        again = greedy(model, inputs, do_sample=True, temperature=1.0)
        other = greedy(model, inputs, do_sample=True, temperature=1.0)
    assert first.tolist() == again.tolist() != other.tolist()


def test_streaming_and_pipelines(tokenizer, make_model, capsys):
    model = make_model(6)
    text = "You are in the hall. You see a red ball, a blue box. " * 3
    with erecap.pruned(model, scorer(model), SCHEDULE) as stats:
        inputs = tokenizer(text, return_tensors="pt")
        made = model.generate(**inputs, max_new_tokens=8, streamer=TextStreamer(tokenizer, skip_prompt=True), **GREEDY)
        wanted = tokenizer.decode(made[0, inputs["input_ids"].shape[1] :])
        pipe = pipeline("text-generation", model=model, tokenizer=tokenizer, device="cpu")
        answer = pipe(text, max_new_tokens=8, do_sample=False, return_full_text=False)[0]["generated_text"]
    assert capsys.readouterr().out.strip() == wanted.strip()
    assert len(stats.prefills) == 2
    assert stats.prefills[1].layer_tokens[0][-1] < stats.prefills[1].layer_tokens[0][0]
    assert tokenizer.decode(made[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).startswith(answer[:4])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_runs_with_a_pruner_in_float32(dtype: torch.dtype, tmp_path: Path):
    model, inputs = make(dtype=dtype), left_padded(90, 40)
    pruner = scorer(model)
    pruner.save_pretrained(tmp_path)
    with erecap.pruned(model, tmp_path, SCHEDULE) as stats:
        read = greedy(model, inputs, 8)
    with erecap.pruned(model, pruner, SCHEDULE):
        assert greedy(model, inputs, 8).tolist() == read.tolist()
    assert stats.prefills[0].layer_tokens[0][-1] < 90
    assert {weight.dtype for weight in pruner.parameters()} == {torch.float32}


def test_a_forward_gives_the_survivors_states_in_their_places():
    model, ids = make(), ids_of(90)
    selector = RandomSelector(3)
    with erecap.pruned(model, None, SCHEDULE, selector) as stats:
        logits = model(ids).logits
    kept = stats.prefills[0].kept[-1][0]
    dropped = torch.ones(90, dtype=torch.bool)
    dropped[kept] = False
    assert logits.shape == (1, 90, 320)
    assert logits[0, dropped].isnan().all()
    assert not logits[0, kept].isnan().any()
    wanted = prefill(model, TokenizedPrompt.from_ids(ids[0].numpy()), SCHEDULE, selector).logits
    torch.testing.assert_close(logits[:, -1], wanted)


def test_a_conversation_goes_on_from_the_pruned_cache():
    model, ids = make(), ids_of(100)
    pruner = scorer(model)
    with erecap.pruned(model, pruner, SCHEDULE) as stats:
        first = model(ids[:, :90], use_cache=True)
        logits = model(ids[:, 90:], cache=first.cache).logits
    wanted = reference(
        model, TokenizedPrompt.from_ids(ids[0, :90].numpy()), ids[0, 90:].tolist(), SCHEDULE, LearnedSelector(pruner, SCHEDULE)
    )
    torch.testing.assert_close(logits[0], wanted.logits[1:], atol=1e-4, rtol=0)
    assert len(stats.prefills) == 1


@pytest.mark.parametrize("lengths", [(60, 60), (60, 33)])
def test_a_batch_goes_on_with_padding_behind_its_prompts(lengths: tuple[int, int]):
    model, first, second = make(), left_padded(*lengths), left_padded(20, 8)
    pruner = scorer(model)
    whole = {key: torch.cat([first[key], second[key]], 1) for key in first}
    with erecap.pruned(model, pruner, SCHEDULE):
        cache = model(**first, use_cache=True).cache
        made = model.generate(**whole, cache=cache, max_new_tokens=8, **GREEDY)[:, whole["input_ids"].shape[1] :]
    for row, (length, more) in enumerate(zip(lengths, (20, 8), strict=True)):
        said = [*ids_of(more)[0].tolist(), *made[row, :-1].tolist()]
        prompt = TokenizedPrompt.from_ids(ids_of(length)[0].numpy())
        wanted = reference(model, prompt, said, SCHEDULE, LearnedSelector(pruner, SCHEDULE))
        assert made[row].tolist() == wanted.logits[more:].argmax(-1).tolist()


def test_padded_rows_go_on_without_position_ids():
    model, inputs = make(), left_padded(90, 40)
    with erecap.pruned(model, scorer(model), SCHEDULE):
        wanted, mask = greedy(model, inputs, 7), inputs["attention_mask"]
        output = model(**inputs, use_cache=True)
        for step in range(7):
            token = output.logits[:, -1:].argmax(-1)
            assert token[:, 0].tolist() == wanted[:, step].tolist()
            mask = torch.cat([mask, torch.ones(2, 1, dtype=torch.long)], 1)
            output = model(token, attention_mask=mask, cache=output.cache)


def test_attention_may_be_switched_inside():
    model, ids = make(), ids_of(90)
    pruner = scorer(model)
    with erecap.pruned(model, pruner, SCHEDULE):
        model.set_attn_implementation("eager")
        tokens = greedy(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, 8)[0].tolist()
    wanted = reference(model, TokenizedPrompt.from_ids(ids[0].numpy()), tokens[:-1], SCHEDULE, LearnedSelector(pruner, SCHEDULE))
    assert tokens == wanted.logits.argmax(-1).tolist()


def test_a_lora_model_is_pruned_with_its_base_model_s_pruner():
    peft = pytest.importorskip("peft")
    base, inputs = make(), left_padded(90, 40)
    pruner = scorer(base)
    with erecap.pruned(base, pruner, SCHEDULE):
        plain = greedy(base, inputs)
    adapted = peft.get_peft_model(make(), peft.LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)).eval()
    with erecap.pruned(adapted, pruner, SCHEDULE):
        changed = greedy(adapted, inputs)
        with adapted.disable_adapter():
            assert greedy(adapted, inputs).tolist() == plain.tolist()
    assert changed.tolist() != plain.tolist()
    merged = adapted.merge_and_unload()
    with erecap.pruned(merged, None, SCHEDULE, LearnedSelector(pruner, SCHEDULE)):
        assert greedy(merged, inputs).tolist() == changed.tolist()


def test_layers_may_lie_on_disk(tmp_path: Path):
    model, inputs = make(), left_padded(90, 40)
    model.save_pretrained(tmp_path)
    parts = dict.fromkeys(("model.embed_tokens", "model.rotary_emb", "model.norm", "lm_head"), "cpu")
    places = parts | {f"model.layers.{number}": "disk" if number in (2, 3) else "cpu" for number in range(6)}
    split = AutoModelForCausalLM.from_pretrained(tmp_path, device_map=places, offload_folder=tmp_path / "off", dtype=torch.float32)
    pruner = scorer(model)
    with erecap.pruned(model, pruner, SCHEDULE):
        wanted = greedy(model, inputs)
    with erecap.pruned(split, pruner, SCHEDULE):
        assert greedy(split, inputs).tolist() == wanted.tolist()


@pytest.mark.parametrize("name", list(SELECTORS))
def test_layers_may_lie_on_several_devices(places, name: str):
    whole, split, inputs = make(), make(), left_padded(90, 40)
    devices, decoder = places.Places(), split.get_decoder()
    for module in (decoder.embed_tokens, decoder.rotary_emb, *decoder.layers[:2]):
        devices.put(module, places.HERE)
    for module in (*decoder.layers[2:], decoder.norm, split.get_output_embeddings()):
        devices.put(module, places.THERE)

    def logits(model: PreTrainedModel) -> list[torch.Tensor]:
        selector = make_selector(name, SelectorContext(SCHEDULE, scorer(make()), model=model))
        with erecap.pruned(model, None, SCHEDULE, selector):
            first = model(**inputs, use_cache=True)
            mask = torch.nn.functional.pad(inputs["attention_mask"], (0, 1), value=1)
            second = model(torch.tensor([[5], [6]]), attention_mask=mask, cache=first.cache)
        prompts = [TokenizedPrompt.from_ids(ids_of(length)[0].numpy()) for length in (90, 40)]
        return [first.logits[:, -1], second.logits[:, -1], prefill(model, prompts, SCHEDULE, selector).logits]

    with torch.no_grad():
        wanted = logits(whole)
        with devices:
            found = logits(split)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.slow
def test_compiled_layers_change_no_token():
    model, inputs = make(), left_padded(90, 40)
    pruner = scorer(model)
    with erecap.pruned(model, pruner, SCHEDULE):
        wanted = greedy(model, inputs)
        for layer in model.get_decoder().layers:
            layer.compile(backend="eager", dynamic=True)
        assert greedy(model, inputs).tolist() == wanted.tolist()


def compile_forward(model: PreTrainedModel) -> PreTrainedModel:
    model.forward = torch.compile(model.forward, backend="eager")
    return model


def compile_decoder(model: PreTrainedModel) -> PreTrainedModel:
    model.model = torch.compile(model.model, backend="eager")
    return model


@pytest.mark.parametrize(
    "compile_whole",
    [
        lambda m: torch.compile(m, backend="eager"),
        lambda m: m.compile(backend="eager") or m,
        lambda m: m.get_decoder().compile(backend="eager") or m,
        compile_forward,
        compile_decoder,
    ],
)
def test_a_model_compiled_as_a_whole_is_refused(compile_whole):
    model = compile_whole(make())
    with pytest.raises(UnsupportedModelError, match="one by one"), erecap.pruned(model, None, SCHEDULE, RandomSelector()):
        pass


def test_a_model_may_be_compiled_around_its_pruned_decoder():
    model, ids = make(), ids_of(90)
    with erecap.pruned(model, scorer(model), SCHEDULE):
        wanted = model(ids).logits[0, -1]
        torch.testing.assert_close(torch.compile(model, backend="eager")(ids).logits[0, -1], wanted)


def test_unsupported_models_are_refused_before_any_computation():
    sliding = make("mistral", sliding_window=16)
    with pytest.raises(UnsupportedModelError, match="sliding"), erecap.pruned(sliding, None, SCHEDULE, RandomSelector()):
        pass
    training = make().train()
    with pytest.raises(UnsupportedModelError, match="training mode"), erecap.pruned(training, None, SCHEDULE, RandomSelector()):
        pass


def goes_on(model: PreTrainedModel, ids: torch.Tensor, rows: int, **more: torch.Tensor) -> None:
    model(torch.ones(rows, 1, dtype=torch.long), cache=model(ids, use_cache=True).cache, **more)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: m(ids_of(50), cache=StaticCache(m.config, max_cache_len=64)), "unequal lengths"),
        (lambda m: m(ids_of(50), output_hidden_states=True), "output_hidden_states"),
        (lambda m: m(ids_of(50), attention_mask=torch.tensor([[1] * 40 + [0] * 10])), "pad on the left"),
        (lambda m: m(ids_of(50), attention_mask=torch.zeros(1, 50, dtype=torch.long)), "no token"),
        (lambda m: m(ids_of(600)), "600"),
        (lambda m: m.generate(ids_of(50), prompt_lookup_num_tokens=3, **GREEDY), "prompt_lookup_num_tokens=3"),
        (lambda m: m.generate(ids_of(50), assistant_model=make(), **GREEDY), "assistant_model=Qwen2ForCausalLM"),
        (lambda m: m.generate(ids_of(50), GenerationConfig(prefill_chunk_size=20)), "prefill_chunk_size=20"),
        (lambda m: m.generate(ids_of(50), use_cache=False, **GREEDY), "use_cache=False"),
        (lambda m: m(ids_of(50), attention_mask=torch.ones(1, 60, dtype=torch.long)), "60"),
        (lambda m: m(ids_of(50), position_ids=torch.arange(7, 57)[None]), "from 0"),
        (lambda m: m(), "exactly one"),
        (lambda m: m.train()(ids_of(50)), "training mode"),
        (lambda m: goes_on(m, ids_of(50).repeat(2, 1), 3), "goes on with 3 rows"),
        (lambda m: goes_on(m, ids_of(50), 1, attention_mask=torch.ones(1, 1, dtype=torch.long)), "every token so far"),
    ],
)
def test_what_cannot_work_is_refused(call, words):
    model = make()
    with erecap.pruned(model, None, SCHEDULE, RandomSelector()), pytest.raises(ValueError, match=words):
        call(model)


def test_outputs_that_the_config_asks_for_are_refused_too():
    model = make(output_hidden_states=True)
    with erecap.pruned(model, None, SCHEDULE, RandomSelector()), pytest.raises(ValueError, match="output_hidden_states"):
        model(ids_of(50))


def test_a_cache_from_outside_is_refused():
    model, ids = make(), ids_of(60)
    cache = DynamicCache(config=model.config)
    model(ids[:, :50], cache=cache)
    with erecap.pruned(model, None, SCHEDULE, RandomSelector()), pytest.raises(ValueError, match="outside of this"):
        model(ids[:, 50:], cache=cache)


@pytest.mark.parametrize("layers", [1, 6])
def test_a_cache_that_was_cropped_into_its_prompt_is_refused(layers: int):
    model, ids = make(), ids_of(60)
    cache = DynamicCache(config=model.config)
    with erecap.pruned(model, None, SCHEDULE, RandomSelector()):
        model(ids[:, :50], cache=cache)
        for layer in cache.layers[:layers]:
            layer.keys, layer.values = layer.keys[..., :-1, :], layer.values[..., :-1, :]
        with pytest.raises(ValueError, match="cropped"):
            model(ids[:, 50:], cache=cache)


ROW_OPERATIONS = {
    "reorder": (lambda cache: cache.reorder_cache(torch.tensor([1, 0])), [1, 0]),
    "select": (lambda cache: cache.batch_select_indices(torch.tensor([1])), [1]),
    "select by mask": (lambda cache: cache.batch_select_indices(torch.tensor([False, True])), [1]),
    "repeat": (lambda cache: cache.batch_repeat_interleave(2), [0, 0, 1, 1]),
}


@pytest.mark.parametrize("new", [1, 3])
@pytest.mark.parametrize("name", ROW_OPERATIONS)
@pytest.mark.parametrize("lengths", [(50, 20), (20, 50)])
def test_rows_of_a_cache_take_their_lengths_with_them(name: str, new: int, lengths: tuple[int, int]):
    model, prompts = make(), left_padded(*lengths)
    change, rows = ROW_OPERATIONS[name]
    ids = torch.arange(10, 10 + 2 * new).view(2, new)
    mask = torch.cat([prompts["attention_mask"], torch.ones(2, new, dtype=torch.long)], dim=1)
    with erecap.pruned(model, None, SCHEDULE, RandomSelector()):
        expected = model(ids, cache=model(**prompts, use_cache=True).cache, attention_mask=mask).logits[rows]
        cache = model(**prompts, use_cache=True).cache
        change(cache)
        found = model(ids[rows], cache=cache, attention_mask=mask[rows]).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_a_copied_cache_goes_on_by_itself():
    model, ids = make(), ids_of(60)
    with erecap.pruned(model, None, SCHEDULE, RandomSelector()):
        cache = model(ids[:, :50], use_cache=True).cache
        copy = deepcopy(cache)
        expected = model(ids[:, 50:], cache=cache).logits
        torch.testing.assert_close(model(ids[:, 50:], cache=copy).logits, expected, atol=1e-5, rtol=0)


def test_schedule_pruner_and_model_must_fit():
    model, other = make(), make("llama")
    with (
        pytest.raises(ValueError, match="does not fit"),
        erecap.pruned(model, None, PruneSchedule((PruneStage(9, 0.5),)), RandomSelector()),
    ):
        pass
    with pytest.raises(ValueError, match="nothing scores"), erecap.pruned(model, None, SCHEDULE):
        pass
    with pytest.raises(ValueError, match="checksum"), erecap.pruned(model, scorer(other), SCHEDULE):
        pass


def test_a_tuple_is_returned_where_one_is_asked_for():
    model, ids = make(), ids_of(50)
    with erecap.pruned(model, None, SCHEDULE, RandomSelector()):
        hidden, cache = model.model(ids, return_dict=False)
        assert hidden.shape == (1, 50, 64)
        assert cache.get_seq_length(0) == 50
        logits, cache = model(ids, return_dict=False)[:2]
        assert logits.shape == (1, 50, 320)


@pytest.mark.parametrize("name", ["generate_batch", "init_continuous_batching", "continuous_batching_context_manager"])
def test_continuous_batching_is_refused_before_anything_is_computed(name: str):
    model = make()
    with erecap.pruned(model, None, SCHEDULE, RandomSelector()) as stats, pytest.raises(ValueError, match="continuous batching"):
        getattr(model, name)([[3, 4, 5]])
    assert not stats.prefills
    assert not hasattr(type(model), name) or getattr(model, name).__self__ is model


@pytest.mark.parametrize(
    ("selector", "words"),
    [
        ("nearest", "selector 'nearest' is not known|is 'nearest', which has no method score"),
        (RecencySelector, "is the class RecencySelector"),
        (
            AttentionSelector(Projections(make()), PruneSchedule((PruneStage(0, 0.5),))),
            "stages after layers \\[0\\]",
        ),
    ],
    ids=["a name", "a class", "another schedule"],
)
def test_what_cannot_score_the_stages_is_refused(selector: object, words: str):
    model = make()
    with pytest.raises(ValueError, match=words), erecap.pruned(model, None, SCHEDULE, selector):
        pass
    with pytest.raises(ValueError, match=words):
        erecap.prefill(model, TokenizedPrompt.from_ids(ids_of(50)[0].numpy()), SCHEDULE, selector)


@pytest.mark.parametrize("kind", ["flash_attention_2", "flash_attention_3"])
def test_equal_rows_go_on_under_flash_attention_by_several_tokens(kind: str):
    layer = PrunedLayer()
    layer.prompt_tokens, layer.columns = torch.tensor([9, 9]), 9
    assert _visible(layer, None, torch.zeros(2, 3, 4), kind) is None
    layer.prompt_tokens = torch.tensor([9, 5])
    assert _visible(layer, None, torch.zeros(2, 3, 4), kind) is not None
