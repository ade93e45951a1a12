"""Schedules, the counts that follow from them, and the ceiling they allow."""

from itertools import chain

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers import Qwen2Config

from erecap.calibration.flops import causal_pairs, ceiling, layer_cost
from erecap.schedule import PruneSchedule, PruneStage, forced_stages, layer_tokens, parse_stages, stage_counts
from erecap.schedule.counts import chunk_counts, share_of

QWEN2_7B = Qwen2Config(
    hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4
)


def layers_of(schedule: PruneSchedule) -> list[int]:
    return [stage.after_layer for stage in schedule.stages]


def tokens_of(preset: str, length: int) -> tuple[int, ...]:
    return layer_tokens(PruneSchedule.preset(preset, 28), 28, np.zeros(length, np.bool_))


def test_seed_depth_gives_seed_stages():
    assert layers_of(PruneSchedule.for_depth(28, 0.7)) == [4, 7, 10, 13, 16, 19, 22, 25]


@pytest.mark.parametrize(
    ("depth", "expected"), [(1, []), (2, [0]), (4, [1, 2]), (8, [1, 2, 3, 4, 5, 6]), (14, [2, 4, 5, 7, 8, 10, 11])]
)
def test_other_depths_scale_the_seed(depth, expected):
    # 14 layers: 13 * 14 / 28 = 6.5 goes up to 7, and the last stage, 25 * 14 / 28 = 12.5 -> 13, would follow the last layer.
    assert layers_of(PruneSchedule.for_depth(depth, 0.7)) == expected


@given(st.integers(1, 100), st.sampled_from(["keep09", "keep08", "keep07", "keep065"]))
def test_every_depth_fits_its_model(depth, preset):
    schedule = PruneSchedule.preset(preset, depth)
    schedule.check_depth(depth)
    assert {stage.keep for stage in schedule.stages} <= {float(f"0.{preset[5:]}")}


def test_a_keep_ratio_compounds():
    mean, final = PruneSchedule.for_depth(28, 0.7).shares(28)
    assert (round(mean, 2), round(final, 2)) == (0.41, 0.06)
    assert PruneSchedule.none().shares(28) == (1.0, 1.0)
    assert PruneSchedule.after([0], 0.5).shares(2) == (0.75, 0.5)


@given(st.integers(2, 64), st.floats(0.5, 1.0), st.sampled_from([None, "0", "0-4+6"]))
def test_a_schedule_of_a_share_leaves_that_share(depth, share, stages):
    depth = max(depth, 8) if stages == "0-4+6" else depth
    least = PruneSchedule.of_stages(stages, depth, 1e-4).shares(depth)[0]
    assume(least < share - 1e-6)
    schedule = PruneSchedule.of_share(stages, depth, share)
    keep = schedule.stages[0].keep
    assert schedule.shares(depth)[0] <= share + 1e-9
    if keep < 1:
        assert schedule.with_keep(keep + 1e-4).shares(depth)[0] > share - 1e-9


def test_presets_by_share():
    mean, _ = PruneSchedule.preset("share06", 28).shares(28)
    assert mean == pytest.approx(0.6, abs=1e-3)
    assert PruneSchedule.preset("keep065", 28) == PruneSchedule.for_depth(28, 0.65)


# Qwen2-7B: keep ratio, m1, m2, and the ceilings at 1K, 4K and 32K.
@pytest.mark.parametrize(
    ("preset", "m1", "m2", "ceilings"),
    [
        ("keep09", 0.712, 0.544, (1.41, 1.42, 1.52)),
        ("keep08", 0.529, 0.363, (1.90, 1.93, 2.11)),
        ("keep07", 0.412, 0.281, (2.44, 2.47, 2.72)),
    ],
)
def test_audit_table_for_qwen2_7b(preset, m1, m2, ceilings):
    entered = tokens_of(preset, 32768)
    assert sum(entered) / (32768 * len(entered)) == pytest.approx(m1, abs=5e-4)
    assert sum(map(causal_pairs, entered)) / (causal_pairs(32768) * len(entered)) == pytest.approx(m2, abs=5e-4)
    for length, expected in zip((1024, 4096, 32768), ceilings, strict=True):
        assert ceiling(QWEN2_7B, tokens_of(preset, length)) == pytest.approx(expected, abs=0.0051)


def test_linear_work_of_qwen2_7b():
    assert layer_cost(QWEN2_7B).linear_per_token * 28 == pytest.approx(13.05e9, rel=1e-3)


def test_nothing_dropped_gains_nothing():
    assert ceiling(QWEN2_7B, [100] * 28) == 1.0


def test_ceiling_refuses_counts_of_another_depth():
    with pytest.raises(ValueError, match="each of the 28 layers"):
        ceiling(QWEN2_7B, [100] * 8)


@pytest.mark.parametrize(("length", "share", "expected"), [(10, 0.7, 7), (5, 0.5, 3), (3, 0.5, 2), (1, 0.3, 0), (17, 0.7, 12)])
def test_shares_round_halves_up(length, share, expected):
    assert share_of(length, share) == expected


def test_short_prompts_are_never_pruned():
    assert layer_tokens(PruneSchedule.for_depth(8, 0.7), 8, np.zeros(20, np.bool_)) == (20,) * 8


def test_tail_share_takes_over_from_tail_min():
    tails = [stage_counts(PruneSchedule.for_depth(2, 0.7), np.zeros(length, np.bool_))[0].tail for length in (100, 160, 1000)]
    assert tails == [16, 16, 100]


SCHEDULES = st.builds(
    lambda keeps, head, tail, share: PruneSchedule(tuple(PruneStage(i, k) for i, k in enumerate(keeps)), head, tail, share),
    st.lists(st.floats(0.05, 1.0), max_size=5), st.integers(0, 6), st.integers(1, 20), st.floats(0.0, 0.6),
)  # fmt: skip


@given(SCHEDULES, st.lists(st.booleans(), min_size=1, max_size=120), st.randoms())
def test_counts_equal_a_simulation_with_sets(schedule, protected, dice):
    """The prediction never looks at which tokens survive; whatever they are, it holds."""
    alive, mask = list(range(len(protected))), np.array(protected)
    through = forced_stages(schedule, mask)
    for index, count in enumerate(stage_counts(schedule, mask)):
        tail = max(schedule.tail_min, share_of(len(alive), schedule.tail_share))
        forced = {*alive[: schedule.head], *alive[max(0, len(alive) - tail) :], *(p for p in alive if protected[p])}
        assert (count.before, count.forced) == (len(alive), len(forced))
        assert {p for p in alive if through[p] > index} == forced
        others = [p for p in alive if p not in forced]
        alive = sorted([*forced, *dice.sample(others, count.kept - len(forced))])
        assert len(forced) <= count.kept <= count.before


@given(SCHEDULES, st.lists(st.lists(st.booleans(), max_size=30), min_size=1, max_size=6).filter(any), st.randoms())
def test_chunk_counts_equal_a_simulation_with_sets(schedule, chunks, dice):
    """Whichever of a chunk's tokens survive. Each keeps its share of those not forced, and what is forced on top."""
    schedule, protected, ends = schedule.by_rule("chunk_top_k"), list(chain(*chunks)), np.cumsum([len(c) for c in chunks]).tolist()
    through = forced_stages(schedule, np.array(protected), ends)
    counts = chunk_counts(schedule, np.array(protected), ends)
    totals = stage_counts(schedule, np.array(protected), ends)
    alive = [list(range(end - len(chunk), end)) for chunk, end in zip(chunks, ends, strict=True)]
    for index, (stage, count, total) in enumerate(zip(schedule.stages, counts, totals, strict=True)):
        left = sorted(chain(*alive))
        assert (count.before.tolist(), total.before) == ([*map(len, alive), 0], len(left))
        tail = left[max(0, len(left) - schedule.tail_min) :]
        forced = {p for p in left if p < schedule.head or protected[p]} | {*tail}
        assert {p for p in left if through[p] > index} == forced
        for number, chunk in enumerate(alive):
            held, free = [p for p in chunk if p in forced], [p for p in chunk if p not in forced]
            alive[number] = sorted([*held, *dice.sample(free, share_of(len(free), stage.keep))])
            assert (count.forced[number], count.kept[number]) == (len(held), len(alive[number]))
        assert total.kept == sum(map(len, alive))


@given(SCHEDULES, st.lists(st.integers(0, 30), min_size=1, max_size=6), st.lists(st.integers(1, 30), min_size=1, max_size=4))
def test_chunk_counts_do_not_change_when_messages_are_appended(schedule, sizes, more):
    """The latest message is protected and covers the tail; so do those behind it later."""
    schedule, window = schedule.by_rule("chunk_top_k"), schedule.tail_min

    def counts(lengths):
        protected = np.zeros(sum(lengths), np.bool_)
        protected[len(protected) - window :] = True
        return chunk_counts(schedule, protected, np.cumsum(lengths).tolist())

    for first, later in zip(counts([*sizes, window]), counts([*sizes, window, *more, window]), strict=True):
        assert first.kept[: len(sizes)].tolist() == later.kept[: len(sizes)].tolist()


def test_bare_ids_are_one_chunk_with_or_without_an_end():
    schedule, mask = PruneSchedule.for_depth(8, 0.5).by_rule("chunk_top_k"), np.zeros(100, np.bool_)
    assert stage_counts(schedule, mask, ()) == stage_counts(schedule, mask, (100,))
    assert [count.kept for count in stage_counts(schedule, mask)][:2] == [60, 40]  # 20 forced, 40 and 20 of the others


def test_a_rule_that_must_stand_guards_no_share_of_the_length():
    schedule = PruneSchedule.for_depth(8, 0.5)
    assert schedule.by_rule("top_k") == schedule
    assert schedule.by_rule("chunk_top_k").tail_share == 0.0
    assert [stage.tau for stage in schedule.by_rule("threshold", [0.5] * 6).stages] == [0.5] * 6


def test_stages_by_name_or_the_seeds():
    assert layers_of(PruneSchedule.of_stages("0+2-3", 8, 0.5)) == [0, 2, 3]
    assert PruneSchedule.of_stages(None, 8, 0.5) == PruneSchedule.for_depth(8, 0.5)
    with pytest.raises(ValueError, match="does not fit a model of 4 layers"):
        PruneSchedule.of_stages("0-3", 4, 0.5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PruneStage(-1, 0.5), "after_layer=-1"),
        (lambda: PruneStage(1, 0.0), "keep=0.0 must be in"),
        (lambda: PruneStage(1, 1.5), "keep=1.5 must be in"),
        (lambda: PruneSchedule((PruneStage(2, 0.5), PruneStage(1, 0.5))), "strictly rising"),
        (lambda: PruneSchedule((PruneStage(2, 0.5), PruneStage(2, 0.5))), "strictly rising"),
        (lambda: PruneSchedule(head=-1), "head=-1"),
        (lambda: PruneSchedule(tail_min=0), "read off the last token"),
        (lambda: PruneSchedule(tail_share=1.5), "tail_share=1.5"),
        (lambda: PruneStage(1, 0.5, float("nan")), "tau=nan"),
        (lambda: PruneSchedule((PruneStage(1, 0.5, 0.0), PruneStage(2, 0.5)), rule="threshold"), r"\[2\] have none.*calibrate"),
        (lambda: PruneSchedule.for_depth(8, 0.5).by_rule("threshold", [0.0]), "1 taus for 6 stages"),
        (lambda: stage_counts(PruneSchedule(rule="threshold"), np.zeros(9, np.bool_)), "depends on the scores"),
        (lambda: PruneSchedule(rule="magic"), "the rules are top_k, chunk_top_k, threshold"),
        (lambda: PruneSchedule.preset("keep7", 8), "keep07 for 0.7"),
        (lambda: PruneSchedule.preset("keep00", 8), "keep07 for 0.7"),
        (lambda: PruneSchedule.of_share("4-6", 8, 0.5), "share=0.5 cannot be reached.*begin earlier"),
        (lambda: PruneSchedule.of_share(None, 8, 1.2), "share=1.2 must be in"),
        (lambda: PruneSchedule.for_depth(0, 0.5), "num_layers=0"),
        (lambda: PruneSchedule.for_depth(28, 0.5).check_depth(8), r"for_depth\(8, keep\)"),
    ],
)
def test_bad_schedules_say_what_is_wrong(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(("text", "layers"), [("0", (0,)), ("0-3", (0, 1, 2, 3)), ("0+2+4", (0, 2, 4)), ("0+3-5", (0, 3, 4, 5))])
def test_stages_are_read_as_written(text, layers):
    assert parse_stages(text) == layers


def test_a_range_of_stages_does_not_fall():
    """It would be an empty one, and an unpruned run that calls itself pruned."""
    with pytest.raises(ValueError, match="write 0-5"):
        parse_stages("5-0")


@pytest.mark.parametrize("text", ["", "a", "0-", "-1", "1+", "0,1", "0.5"])
def test_stages_that_are_no_layers_are_refused(text):
    with pytest.raises(ValueError, match="write them like 0-5"):
        parse_stages(text)
