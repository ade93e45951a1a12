"""Pictures of an episode: what they say, that texts fit, and the GIF made of them."""

import numpy as np
import pytest
from PIL import Image

from agents import AgentConfig, EpisodeJob, Family, Progress, Tick, failed, make_world, register_family
from agents.families import FAMILIES
from agents.protocols import Moment
from agents.records import EpisodeRecord, PlannerCall, StepRecord
from agents.world import OK, Scene
from benchmarks.backends.registry import BackendFactory
from benchmarks.pictures import story as stories
from benchmarks.pictures.board import WIDTH, draw_board
from benchmarks.pictures.panel import window
from benchmarks.pictures.story import Note, Story
from benchmarks.pictures.style import MAP, MARGIN, MIN_HEIGHT, TONES
from benchmarks.pictures.text import ELLIPSIS, clean, cut, font, wrap
from benchmarks.runs import gif as gifs
from benchmarks.runs.gif import FRAME_MS, HOLD_MS, LAST_FRAME_MS, GifWriter, hold_ms, record_gif
from planner import Generation, parse_plan

JOB = EpisodeJob("expert", "BabyAI-GoToRedBallNoDists-v0", 5)
KEY = {"backend": "b", "env_id": "e", "seed": 0}
LONG = "a line that goes on and on, [bold]with brackets[/bold] and :smile:, far beyond the edge of the panel " * 4


def moment(step=0, line="", rest=(), **changes):
    fields = {"disturbances": (), "scene": Scene(), "progress": Progress("Task: t", "g", 0, 2), **changes}
    return Moment(env_step=step, max_steps=100, line=line, rest=tuple(rest), **fields)


def call(replan=0, **changes):
    made = Generation("goto hall", prompt_tokens=1234, layer_tokens=(1234, 600), stage_tokens=(600,), ttft_s=0.5)
    fields = {"reason": "failure", "generation": made, "parse_error": None, **changes}
    return PlannerCall(**KEY, replan=replan, env_step=0, history_entries=2, backend_s=1, overhead_s=0, replan_s=1.25, **fields)


def step(skill, succeeded=True, outcome="ok"):
    return StepRecord(
        **KEY, replan=0, skill=skill, succeeded=succeeded, outcome=outcome, env_steps=1, reward=0, place=None, disturbances=[],
        subgoals_done=0, subgoals_total=2,
    )  # fmt: skip


# ---- text ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "short", LONG, "Ünïcödé 漢字 \x00 \n line", "W" * 500])
@pytest.mark.parametrize("width", [60, 300])
def test_lines_fit_their_width(text, width):
    face = font(13)
    lines = wrap(text, face, width, 3)
    assert len(lines) <= 3
    assert all(face.getlength(line) <= width for line in [*lines, cut(text, face, width)])
    assert all(line.isprintable() for line in lines)


def test_what_is_left_out_is_said_and_what_fits_is_whole():
    face = font(13)
    assert wrap(LONG, face, 300, 2)[-1].endswith(ELLIPSIS)
    assert " ".join(wrap(LONG, face, 300, 99)) == clean(LONG)
    assert cut("goto hall", face, 300) == "goto hall"
    assert wrap("goto hall", face, 300, 1) == ["goto hall"]


@pytest.mark.parametrize("count", [0, 1, 5, 12])
def test_a_window_shows_the_current_line(count):
    for at in range(count):
        shown = window(count, at, 5)
        assert at in shown
        assert len(shown) == min(count, 5)
        assert shown[-1] < count


# ---- story ---------------------------------------------------------------------------------------------------------------------


def test_the_plan_marks_what_is_done_under_way_and_failed():
    story = Story(JOB)
    story.see(moment())
    story.take(call())
    story.see(moment(rest=["goto hall", "pickup key", "drop"]))
    assert [line.state for line in story.plan] == ["todo"] * 3
    story.see(moment(1, "goto hall", ["pickup key", "drop"]))
    assert [line.state for line in story.plan] == ["now", "todo", "todo"]
    story.take(step("goto hall"))
    story.see(moment(2, "pickup key", ["drop"]))
    story.take(step("pickup key", succeeded=False, outcome="failed, too far"))
    assert [line.state for line in story.plan] == ["done", "failed", "todo"]
    assert story.notes == [Note("failure", "pickup key: failed, too far")]
    assert story.past == [(0, Note("replan", "Replan 1: a skill failed"))]


def test_a_step_without_a_plan_marks_nothing():
    story = Story(JOB)
    story.see(moment())
    story.take(call(parse_error="line 1 is no skill"))
    story.see(moment())
    story.see(moment(1, "goto hall"))
    assert story.plan == []
    assert [note.tone for _, note in story.past] == ["replan", "failure"]


def test_every_reason_and_end_has_words():
    assert set(stories.REASONS) == set(PlannerCall.model_fields["reason"].annotation.__args__)
    assert set(stories.ENDS) == set(EpisodeRecord.model_fields["end"].annotation.__args__)


def test_disturbances_failures_and_replans_hold_the_picture():
    assert hold_ms([]) == 0
    assert hold_ms([Note("disturbance", "x"), Note("replan", "y")]) == HOLD_MS["replan"] > FRAME_MS


# ---- pictures ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(60, 84, 3), (900, 600, 3), (5, 400, 3), (50, 50)])
def test_a_world_without_rooms_and_of_any_size_is_drawn(shape):
    story = Story(EpisodeJob(LONG, LONG, 3))
    story.see(moment(progress=Progress(LONG, LONG, 0, 0), rest=[LONG] * 20, disturbances=(LONG,)))
    story.take(call(parse_error=LONG))
    board = draw_board(np.full(shape, 200, np.uint8), story)
    assert board.width == WIDTH
    assert board.height >= MIN_HEIGHT
    edge = np.asarray(board)[:, [0, -1]]
    assert (edge == edge[0, 0]).all(), "nothing is written over the edge"


def test_rooms_are_named_on_the_wall_above_them_and_no_door_is_covered():
    world = make_world(EpisodeJob("", "ERecap/HouseholdLong-v0", 3), render=True)
    world.reset(3)
    base, scene, frame = world.env.unwrapped, world.scene(), world.frame()
    story = Story(JOB)
    story.see(moment(scene=Scene()))
    bare = np.asarray(draw_board(frame, story), int)
    story.see(moment(scene=Scene(scene.places)))
    named = np.asarray(draw_board(frame, story), int)
    changed = np.abs(named - bare).sum(2) > 0
    cell = MAP / base.width
    rows, cols = np.nonzero(changed)
    cells = {(int((x - MARGIN) / cell), int((y - MARGIN) / cell)) for y, x in zip(rows, cols, strict=True)}
    assert len(scene.places) == 9
    assert {place.name for place in scene.places} == set(base.room_names)
    on = [base.grid.get(*cell) for cell in cells]
    assert all(thing is None or thing.type == "wall" for thing in on)
    assert sum(thing is not None for thing in on) >= 9


def test_a_gridworld_says_what_is_held_and_what_is_to_be_done():
    world = make_world(EpisodeJob("", "ERecap/HouseholdSmall-v0", 3))
    world.reset(3)
    base = world.env.unwrapped
    assert world.scene().held == ""
    assert list(world.scene().subgoals) == world.info["subgoals"]
    base.take(base.loose_things()[0])
    assert world.scene().held == f"{base.carrying.color} {base.carrying.type}"


def test_the_edge_of_the_map_has_the_colour_of_what_happened():
    story = Story(JOB)
    story.see(moment(disturbances=("red door closed",)))
    board = draw_board(np.zeros((40, 40, 3), np.uint8), story)
    assert board.getpixel((MARGIN - 2, MARGIN + 50)) == TONES["disturbance"]
    story.see(moment(1))
    assert draw_board(np.zeros((40, 40, 3), np.uint8), story).getpixel((MARGIN - 2, MARGIN + 50)) != TONES["disturbance"]


# ---- GIFs ----------------------------------------------------------------------------------------------------------------------


def test_a_gif_without_frames_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no frames"):
        GifWriter(JOB).save(tmp_path / "out.gif")


def test_an_episode_becomes_a_gif_that_stands_still_at_replans_and_at_its_end(tmp_path):
    path = tmp_path / "out.gif"
    episode = record_gif(JOB, BackendFactory()("expert"), AgentConfig(), path)
    with Image.open(path) as gif:
        assert 1 < gif.n_frames <= episode.env_steps + 1
        assert gif.info["loop"] == 0
        assert gif.width == WIDTH
        times = []
        for number in range(gif.n_frames):
            gif.seek(number)
            times.append(gif.info["duration"])
    assert times[0] == HOLD_MS["replan"]
    assert times[-1] == LAST_FRAME_MS
    assert FRAME_MS in times
    assert path.stat().st_size < 300_000


def test_an_unchanged_part_of_the_picture_is_not_written_again(tmp_path):
    writer = GifWriter(JOB)
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 255, (200, 200, 3), dtype=np.uint8)
    sizes = []
    for count in (1, 9):
        for number in range(count):
            writer.see(moment(len(sizes) * 10 + number))
            writer(frame, "")
        writer.save(tmp_path / "out.gif")
        sizes.append((tmp_path / "out.gif").stat().st_size)
    assert sizes[1] < 1.3 * sizes[0]


class Dots:
    """A world of the user's own: pictures that change their size, no text, no rooms."""

    system, max_steps, place = "Answer with: wait", 9, None

    def __init__(self, env, job):
        self.env, self.steps = env, 0

    def reset(self, seed):
        return self._progress()

    def _progress(self):
        return Progress("Task: wait", "wait", min(self.steps, 2), 2)

    def describe(self, outcomes):
        return "Goal: wait"

    def parse(self, answer):
        return parse_plan("explore\ndone").skills

    def run(self, call):
        yield self.idle()
        return OK if self.steps % 2 else failed("the dot is gone")

    def idle(self):
        self.steps += 1
        return Tick(self._progress(), success=self.steps == 4, disturbances=("a dot moved",) if self.steps == 2 else ())

    def touches(self, rest):
        return False

    def expert(self):
        return "wait"

    def frame(self):
        return np.full((60 + 20 * self.steps, 84, 3), 40 * self.steps, np.uint8)

    def close(self):
        self.env.close()


@pytest.mark.parametrize("horizon", ["subgoal", "task"])
def test_a_foreign_world_without_rooms_or_scene_becomes_a_gif(tmp_path, horizon):
    before = dict(FAMILIES)
    register_family("dots", Family(lambda env: env.spec.id == "CartPole-v1", Dots))
    try:
        job = EpisodeJob("expert", "CartPole-v1", 0, horizon=horizon)
        episode = record_gif(job, BackendFactory()("expert"), AgentConfig(), tmp_path / "out.gif")
    finally:
        FAMILIES.clear()
        FAMILIES.update(before)
    assert episode.end == "success"
    with Image.open(tmp_path / "out.gif") as gif:
        assert gif.n_frames == 5


def test_a_long_episode_is_shown_faster(monkeypatch, tmp_path):
    monkeypatch.setattr(gifs, "LONG", 2)
    writer = GifWriter(JOB)
    for number in range(4):
        writer.see(moment(number))
        writer(np.full((9, 9, 3), 60 * number, np.uint8), "")
    writer.save(tmp_path / "out.gif")
    with Image.open(tmp_path / "out.gif") as gif:
        gif.seek(1)
        assert gif.info["duration"] == gifs.QUICK_MS
