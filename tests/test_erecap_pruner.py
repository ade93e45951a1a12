"""The pruner's file and its bond to one model."""

import pytest
import torch

from erecap.models.files import read_json_object, write_json_object
from erecap.models.identity import identify
from erecap.models.pruner import PrunerMismatchError, TokenPruner


def test_saves_and_loads(make_model, tmp_path):
    identity = identify(make_model(4), "tiny")
    pruner = TokenPruner(identity, (1, 2))
    pruner.save_pretrained(tmp_path)
    loaded = TokenPruner.from_pretrained(tmp_path, identity)
    hidden = torch.randn(2, 7, identity.hidden_size)
    assert (loaded.identity, loaded.stages, loaded.training) == (identity, (1, 2), False)
    assert torch.equal(loaded(hidden, 1), pruner(hidden, 1))


@pytest.mark.parametrize("inputs", ["rms", "raw"])
def test_a_file_says_what_its_scorers_read(make_model, tmp_path, inputs):
    pruner = TokenPruner(identify(make_model(4)), (1,), inputs)
    pruner.save_pretrained(tmp_path)
    loaded, hidden = TokenPruner.from_pretrained(tmp_path), torch.randn(1, 9, 64)
    assert loaded.inputs == read_json_object(tmp_path / "pruner.json", "")["inputs"] == inputs
    assert torch.equal(loaded(hidden, 0), pruner(hidden, 0))


def test_scores_by_normalised_inputs_do_not_depend_on_the_norm_of_a_hidden_state(make_model):
    """SmolLM2's first token has a norm of 25,000, the median token one of 132."""
    normalised, raw = (TokenPruner(identify(make_model(4)), (1,), inputs) for inputs in ("rms", "raw"))
    raw.load_state_dict(normalised.state_dict())
    hidden = torch.randn(1, 9, 64)
    longer = hidden * torch.tensor([3000.0, *[1.0] * 8])[None, :, None]
    torch.testing.assert_close(normalised(longer, 0), normalised(hidden, 0), atol=1e-4, rtol=1e-4)
    assert raw(longer, 0)[0, 0].abs() > 50 * normalised(longer, 0)[0, 0].abs()
    torch.testing.assert_close(normalised(hidden, 0), raw(hidden * hidden.square().mean(-1, keepdim=True).rsqrt(), 0))
    assert normalised.checksum() != raw.checksum()
    half = normalised.to(torch.float16)(torch.full((1, 1, 64), 60_000.0, dtype=torch.float16), 0)
    assert half.isfinite().all()


def test_a_file_from_before_the_inputs_were_named_is_of_raw_ones(make_model, tmp_path):
    TokenPruner(identify(make_model(4)), (1,), "raw").save_pretrained(tmp_path)
    config = tmp_path / "pruner.json"
    content = {**read_json_object(config, ""), "format_version": 2}
    del content["inputs"]
    write_json_object(config, content)
    assert TokenPruner.from_pretrained(tmp_path).inputs == "raw"


def test_unknown_inputs_are_refused(make_model, tmp_path):
    with pytest.raises(ValueError, match="inputs='squared' of the scorers are not known: choose from rms, raw"):
        TokenPruner(identify(make_model(4)), (1,), "squared")


def test_shape_is_the_seeds():
    from erecap.models.pruner import StageScorer

    scorer = StageScorer(64)
    assert (scorer.up.in_features, scorer.up.out_features, scorer.out.in_features, scorer.out.out_features) == (64, 16, 16, 1)


def test_bfloat16_scores_are_not_tied(make_model):
    """In bfloat16 throughout, 4,000 tokens would share a few hundred scores."""
    pruner = TokenPruner(identify(make_model(4)), (1,)).to(torch.bfloat16)
    scores = pruner(torch.randn(1, 4000, 64, dtype=torch.bfloat16), 0)
    assert scores.dtype == torch.float32
    assert len(scores.unique()) > 3900


def test_identity_is_of_the_weights_not_of_their_dtype(make_model):
    import copy

    model = make_model(4)
    assert identify(copy.deepcopy(model).to(torch.bfloat16)).matches(identify(model))
    assert not identify(make_model(4, seed=1)).matches(identify(model))
    assert not identify(make_model(2)).matches(identify(model))


def test_another_models_pruner_names_both_sides(make_model, tmp_path):
    TokenPruner(identify(make_model(4), "house"), (1,)).save_pretrained(tmp_path)
    with pytest.raises(PrunerMismatchError, match=r"trained for house \(4 layers.*the model is garden \(2 layers"):
        TokenPruner.from_pretrained(tmp_path, identify(make_model(2), "garden"))


def test_missing_and_foreign_files(make_model, tmp_path):
    with pytest.raises(ValueError, match=r"holds no pruner.*train-pruner"):
        TokenPruner.from_pretrained(tmp_path)
    TokenPruner(identify(make_model(4)), (1,)).save_pretrained(tmp_path)
    config = tmp_path / "pruner.json"
    write_json_object(config, {**read_json_object(config, ""), "format_version": 99})
    with pytest.raises(ValueError, match="format version 99"):
        TokenPruner.from_pretrained(tmp_path)


@pytest.mark.parametrize("config", ["{", "[]", '{"format_version": 2}', '{"format_version": 2, "base_model": {}, "stages": [1]}'])
def test_a_broken_configuration_is_named(make_model, tmp_path, config):
    TokenPruner(identify(make_model(4)), (1, 2)).save_pretrained(tmp_path)
    (tmp_path / "pruner.json").write_text(config)
    with pytest.raises(ValueError, match=r"pruner\.json.*copy the pruner again"):
        TokenPruner.from_pretrained(tmp_path)


def test_broken_weights_are_named(make_model, tmp_path):
    TokenPruner(identify(make_model(4)), (1, 2)).save_pretrained(tmp_path)
    weights = tmp_path / "pruner.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"pruner\.safetensors is not the file that was written with pruner\.json"):
        TokenPruner.from_pretrained(tmp_path)


@pytest.mark.parametrize("stages", [(2, 1), (1, 1), (-1,), (4,)])
def test_stages_must_be_layers_of_the_model(make_model, stages):
    with pytest.raises(ValueError, match=r"strictly rising order within 0\.\.3"):
        TokenPruner(identify(make_model(4)), stages)
