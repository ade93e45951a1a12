"""Replans per second by batch size: the same prompts in each size, ratios, and what is left out. Times are not judged."""

from itertools import chain

import pytest
import torch

from erecap.profiling import batch_profile
from erecap.profiling.batch_profile import BatchPlan, mixed_prompts, profile_batches, summary_rows
from erecap.profiling.cli import main
from erecap.profiling.results import ResultFile, read_result
from erecap.profiling.shapes import make_random_model, shape_config
from erecap.schedule import PruneSchedule

FULL = {1.0: (PruneSchedule.none(), None)}


@pytest.fixture(scope="module")
def nano():
    return make_random_model(shape_config("nano"), torch.device("cpu"), torch.float32)


def test_batch_sizes_on_the_command_line(tmp_path, capsys):
    out = tmp_path / "batch.json"
    words = "batch --shape nano --device cpu --dtype float32 --lengths 40 --batch-sizes 1,2,3 --new-tokens 2 --rounds 2"
    assert main([*words.split(), "--out", str(out)]) == 0
    content = read_result(out)
    points = {(point["keep"], point["batch_size"]): point for point in content["points"]}
    assert list(points) == [(keep, size) for keep in (1.0, 0.7) for size in (1, 2, 3)]
    assert content["complete"]
    for (keep, size), point in points.items():
        assert (point["status"], point["prompts"], point["shortest_tokens"], point["rounds"]) == ("ok", 3, 20, 2)
        assert point["replans_per_s"] > 0
        assert (point["over_alone"] == 1.0) == (size == 1)
        assert (point["speedup"] == 1.0) == (keep == 1.0)
    assert points[1.0, 3]["kv_bytes"] == 3 * 40 * 8 * 2 * 64 * 4  # padded to the longest prompt
    assert points[0.7, 3]["kv_bytes"] < points[1.0, 3]["kv_bytes"]
    assert "over batch 1" in capsys.readouterr().out


def test_every_size_answers_the_same_prompts(nano, monkeypatch):
    seen: list[list[int]] = []
    prefill = batch_profile.prefill

    def watched(model, prompts, *variant):
        seen.append([len(prompt) for prompt in prompts])
        return prefill(model, prompts, *variant)

    monkeypatch.setattr(batch_profile, "prefill", watched)
    profile_batches(nano, FULL, BatchPlan((16,), (1, 2, 4), 2, 1, 60), ResultFile(None))
    lengths = [len(prompt) for prompt in mixed_prompts(nano, 16, 4)]
    assert sorted(lengths) == [8, 11, 13, 16]
    assert lengths != sorted(lengths)
    sizes = [len(batch) for batch in seen]
    assert sizes[:7] == [1] * 4 + [2] * 2 + [4]
    assert sorted(sizes) == sorted(2 * sizes[:7])
    assert [*chain(*seen[:4])] == [*chain(*seen[4:6])] == seen[6] == lengths


def test_what_fails_or_is_late_is_named(nano, monkeypatch):
    prefill = batch_profile.prefill

    def small(model, prompts, *variant):
        if len(prompts) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return prefill(model, prompts, *variant)

    monkeypatch.setattr(batch_profile, "prefill", small)
    file = ResultFile(None)
    profile_batches(nano, FULL, BatchPlan((16,), (1, 2), 2, 1, 60), file)
    assert [point["status"] for point in file.points] == ["ok", "failed: out of memory"]
    late = ResultFile(None)
    profile_batches(nano, FULL, BatchPlan((16,), (1, 2), 2, 1, -1), late)
    assert [row["status"] for row in summary_rows(late.points)] == ["left out: --seconds is over"] * 2
