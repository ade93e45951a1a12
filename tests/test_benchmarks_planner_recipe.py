"""The recipe of the bundled planner, too small to learn anything: its stages fit together and go on where they stopped."""

import json
import re
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from agents.demonstrations import Labeller, Sample, demonstrate
from agents.gridworld.noise import MistakenPlaces, disturbed_plan
from agents.gridworld.world import GridWorld
from agents.job import EpisodeJob
from agents.loop import AgentConfig, run_episode
from agents.records import PlannerCall, Record, TranscriptRecord
from agents.world import World
from benchmarks.backends.registry import BackendFactory
from benchmarks.recipes.planner.collect import (
    Chunk,
    ChunkStats,
    RoundPlay,
    chunks,
    play_chunk,
    play_chunks,
    read_demonstrations,
    read_stats,
)
from benchmarks.recipes.planner.config import Lessons, Recipe, Round, Source
from benchmarks.recipes.planner.dataset import LESSONS, Encoding, chat_messages, encode, make_tokenizer
from benchmarks.recipes.planner.lessons import Lesson, lesson
from benchmarks.recipes.planner.locked_lessons import LockedHouse, locked_lesson, troubled_lesson
from benchmarks.recipes.planner.misplanned_lessons import MisplannedHouse, misplanned_lesson
from benchmarks.recipes.planner.pipeline import run_recipe
from benchmarks.runs.suites import HELD_OUT, find_suite
from envs import make_env
from erecap.training import encoding
from erecap.training.sequences import ALWAYS_KEPT
from planner import Entry, Generation, History, LineCallback, Prompt, PromptTooLongError, Sampling, build_prompt, parse_plan

SMALL = "ERecap/HouseholdSmall-v0"


class Reports:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.stages: list[str] = []

    def begin(self, stage: str, total: float) -> None:
        self.stages.append(stage)

    def advance(self, units: float = 1, note: str = "") -> None:
        return

    def reach(self, done: float, note: str = "") -> None:
        return


class Stubborn:
    """A student that always explores."""

    def generate(self, prompt: Prompt, sampling: Sampling, on_line: LineCallback | None = None) -> Generation:
        return Generation(text="explore")


def demonstration(seed: int = 1, noise: float = 0.5) -> list[Sample]:
    job = EpisodeJob("expert", SMALL, seed)
    return list(demonstrate(job, Labeller(np.random.default_rng(seed), noise=noise), AgentConfig(max_replans=40)).samples)


def test_whole_episode_imitates_the_expert_only_where_the_expert_was_followed():
    made = demonstrate(EpisodeJob("expert", SMALL, 3), Labeller(np.random.default_rng(3), noise=0.5), AgentConfig(max_replans=40))
    assert 0 < made.agreed < made.plans
    assert made.samples[0].imitate.count(True) == made.agreed
    assert len(made.samples) == 1 + made.plans - made.agreed


def test_each_correction_ends_in_the_experts_plan_and_imitates_nothing_else():
    whole, *corrections = demonstration()
    assert corrections
    for sample in corrections:
        assert sample.imitate[-1]
        assert set(sample.labels[:-1]) <= {None}
        assert sample.entries[-1].kind == "plan"
        assert sample.entries[:-1] == whole.entries[: len(sample.entries) - 1]
        assert sample.entries[-1].text != whole.entries[len(sample.entries) - 1].text


def test_a_student_plays_and_the_expert_labels():
    labeller = Labeller(np.random.default_rng(0), Stubborn(), share=1.0)
    made = demonstrate(EpisodeJob("student", SMALL, 0), labeller, AgentConfig(max_replans=12))
    played = [entry.text for entry in made.samples[0].entries if entry.kind == "plan"]
    assert set(played) == {"explore"}
    assert any(label != "explore" for label in labeller.labels)


def test_disturbed_plans_are_plans():
    seen: list[str] = []

    class Spy(Labeller):
        def plan(self, world: World, prompt: Prompt, sampling: Sampling, on_line: LineCallback | None = None) -> Generation:
            seen.extend(disturbed_plan(np.random.default_rng(i), world.belief, "goto kitchen\ndrop") for i in range(20))
            return super().plan(world, prompt, sampling, on_line)

    demonstrate(EpisodeJob("expert", SMALL, 1), Spy(np.random.default_rng(0)), AgentConfig(max_replans=5))
    assert len(set(seen)) > 5
    assert all(plan.strip() for plan in seen)


def test_a_disturbed_plan_keeps_its_first_number():
    world = GridWorld(make_env(SMALL), "terse", "task")
    world.reset(0)
    world.describe([])
    plans = [disturbed_plan(np.random.default_rng(i), world.belief, "3. goto kitchen\ndrop") for i in range(40)]
    assert all(plan.startswith("3. ") or plan == "drop" for plan in plans), "only the first line may be left out"


def test_a_mistaken_place_is_where_a_plan_has_looked_before_and_is_kept() -> None:
    world = GridWorld(make_env(SMALL), "terse", "task")
    world.reset(0)
    world.describe([])
    here = world.belief.room_names[world.belief.known_rooms()[0]]
    places = MistakenPlaces(np.random.default_rng(0), stubbornness=1.0)
    places.sought["red ball"] = ["cellar"]
    places.wrong = {"blue box": "cellar"}
    right = f"3. pickup red ball in {here}\nput red ball next to grey key in {here}\n4. pickup red ball in {here}\ndrop"
    wrong = right.replace(f"red ball in {here}", "red ball in cellar")
    assert [places.spoil(world.belief, right) for _ in range(3)] == [wrong] * 3
    places.note(world.belief, right)
    assert places.sought == {"red ball": ["cellar", here], "grey key": [here]}
    assert places.spoil(world.belief, "explore") == "explore"


def test_a_source_has_its_own_share_of_mistakes(tmp_path: Path) -> None:
    how = RoundPlay(0, noise=0.0, corrections=0)
    for noise, some in ((None, False), (1.0, True)):
        todo = chunks([Source(env_id=SMALL, episodes=1, horizon="task", noise=noise)], how, tmp_path / str(noise))
        stats = play_chunk(todo[0], BackendFactory(1))
        assert (stats.agreed < stats.plans) == some


def test_a_number_in_front_of_a_line_is_one_token(tmp_path: Path):
    todo = chunks([Source(env_id=SMALL, episodes=1, horizon="task")], RoundPlay(0, noise=0.2, corrections=1), tmp_path)
    play_chunk(todo[0], BackendFactory(1))
    tokenizer = make_tokenizer([todo[0].path], tmp_path / "tokenizer", 600)
    numbered, bare = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("12. drop\n3. drop", "drop"))
    assert [tokenizer.decode(token) for token in numbered if token not in bare] == ["12. ", "\n", "3. "]


def test_training_messages_are_the_prompts_of_the_episode():
    sample = demonstration()[0]
    found = [(message["role"], message["content"]) for message in chat_messages(sample)]
    prompt = build_prompt(History(sample.entries))
    assert found == [(segment.role, segment.text) for segment in prompt.segments]
    assert [m.get("train") for m in chat_messages(sample) if m["role"] == "assistant"] == list(sample.imitate)


def test_wrong_plans_carry_the_experts_where_they_are_corrected_in_place():
    whole = demonstration()[0]
    found = [(m["train"], m.get("label")) for m in chat_messages(whole, in_place=True) if m["role"] == "assistant"]
    assert found == [(right, None if right else label) for right, label in zip(whole.imitate, whole.labels, strict=True)]
    assert not all(whole.imitate)
    assert not any("label" in m for m in chat_messages(whole))


def test_chunks_have_training_seeds_of_their_own(tmp_path: Path):
    recipe = Recipe()
    found = [
        seed
        for round_ in range(len(recipe.rounds))
        for chunk in _chunks(recipe, round_, tmp_path)
        for seed in range(chunk.first_seed, chunk.first_seed + chunk.episodes)
    ]
    assert len(found) == len(set(found))
    assert max(found) < HELD_OUT


def _chunks(recipe: Recipe, round_: int, out: Path) -> list[Chunk]:
    sources = recipe.rounds[round_].sources
    return chunks(sources, RoundPlay(round_, noise=0.1, corrections=1), out)


def test_a_chunk_on_disk_is_not_played_again(tmp_path: Path):
    todo = chunks([Source(env_id=SMALL, episodes=2)], RoundPlay(0, noise=0.2, corrections=1), tmp_path)
    stats = play_chunk(todo[0], BackendFactory(1))
    assert stats.episodes == 2
    assert read_stats(todo[0].path) == stats
    assert len(list(read_demonstrations(todo[0].path))) == stats.samples
    before = todo[0].path.stat().st_mtime_ns
    heard: list[ChunkStats] = []
    play_chunks(todo, BackendFactory(1), 1, lambda chunk, stats: heard.append(stats))
    assert heard == [stats]
    assert todo[0].path.stat().st_mtime_ns == before


def test_chunks_unfinished_when_the_time_is_up_are_left_out(tmp_path: Path):
    todo = chunks([Source(env_id=SMALL, episodes=4, chunk=1)], RoundPlay(0, noise=0.2, corrections=1), tmp_path)
    play_chunk(todo[1], BackendFactory(1))
    assert play_chunks(todo, BackendFactory(1), 1, lambda chunk, stats: None, 1e-3) == [todo[1]]


def test_a_factor_multiplies_the_expert_episodes_as_far_as_there_are_seeds():
    usual, more = (Recipe(expert_factor=factor).rounds[0].sources for factor in (1, 3))
    assert all(a.episodes < b.episodes <= 3 * a.episodes for a, b in zip(usual, more, strict=True))
    assert {r.minutes for r in Recipe(student_minutes=2).rounds[1:]} == {2}
    _chunks(Recipe(expert_factor=3), 0, Path())


def test_long_episodes_are_cut_and_corrections_that_would_lose_their_plan_left_out(tmp_path: Path):
    todo = chunks([Source(env_id=SMALL, episodes=3)], RoundPlay(0, noise=0.4, corrections=2), tmp_path / "round0")
    play_chunk(todo[0], BackendFactory(1))
    tokenizer: PreTrainedTokenizerBase = make_tokenizer([todo[0].path], tmp_path / "tokenizer", 600)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    heard: list[Path] = []
    whole, cut = (
        encode([todo[0].path], Encoding(tmp_path / "tokenizer", tmp_path / name, most), 1, heard.append)
        for name, most in (("all", 100_000), ("cut", 300))
    )
    assert heard == [todo[0].path] * 2
    assert len(cut) < len(whole)
    assert max(cut.lengths) == 300


@pytest.mark.slow
def test_the_recipe_runs_from_nothing_and_goes_on_where_it_stopped(tmp_path: Path):
    recipe = Recipe(
        expert_sources=(Source(env_id="PutNext", episodes=8),),
        student_rounds=(Round(sources=(Source(env_id="PutNext", episodes=1),), minutes=0.01),),
        train_minutes=0.02,
        held_out_episodes=0,
        lessons=Lessons(plain=20, locked=20, misplanned=20),
    )
    first, second = Reports(), Reports()
    result = run_recipe(recipe, tmp_path, 1, 0, False, first)
    assert (Path(result["planner"]) / "model.safetensors").is_file()
    assert (Path(result["planner"]) / "README.md").read_text().startswith("---")
    assert [stage for stage in first.stages if stage.endswith("train")] == ["round 0: train", "round 1: train"]
    run_recipe(recipe, tmp_path, 1, 0, False, second)
    assert second.stages == []
    log = [json.loads(line) for line in (tmp_path / "train0" / "log.jsonl").read_text().splitlines()]
    assert log
    with pytest.raises(ValueError, match="another recipe"):
        run_recipe(recipe.model_copy(update={"seed": 7}), tmp_path, 1, 0, False, Reports())


# ---- plans for the whole task --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
def test_lessons_speak_as_observations_do(seed: int) -> None:
    messages = lesson(np.random.default_rng(seed))
    assert [message["role"] for message in messages] == ["user", "assistant"] * (len(messages) // 2)
    for observation, plan in zip(messages[::2], messages[1::2], strict=True):
        lines = parse_plan(plan["content"]).skills
        assert "explore" not in [line.text for line in lines[:-1]], "nothing is planned behind a search"
        assert (" Goals:\n" in observation["content"]) != (" Goal: " in observation["content"])


def test_a_lesson_for_the_whole_task_plans_goal_after_goal() -> None:
    house = Lesson(np.random.default_rng(3), {"red ball": "attic", "blue key": "hall", "grey box": "study"}, here="hall")
    goals = ["bring red ball to study", "put blue key next to red ball", "pick up grey box", "go to green ball", "pick up blue key"]
    parts = house._task_plan(goals)
    assert parts == [
        ["pickup red ball in attic", "goto study", "drop"],
        ["pickup blue key in hall", "put blue key next to red ball in study"],
        ["pickup grey box in study"],
        ["explore"],
    ]
    assert house.place["red ball"] == "attic", "the house itself stays as it is"


@pytest.mark.parametrize("seed", range(40))
def test_lessons_about_locked_doors_speak_as_observations_do(seed: int) -> None:
    messages = locked_lesson(np.random.default_rng(seed))
    for observation, plan in zip(messages[::2], messages[1::2], strict=True):
        assert "explore" not in [line.text for line in parse_plan(plan["content"]).skills[:-1]]
        assert (" Goals:\n" in observation["content"]) != (" Goal: " in observation["content"])
        assert (" Locked: " in observation["content"]) == (" Blocked: " in observation["content"])


def locked_house(held: str = "") -> LockedHouse:
    place = {"red ball": "attic", "green key": "hall", "grey box": "study", "blue ball": "garage"}
    return LockedHouse(
        np.random.default_rng(3), place, held, "hall", ways={"green door": ("hall", ("attic",)), "blue door": ("hall", ("garage",))}
    )


def test_a_locked_door_is_unlocked_before_what_lies_behind_it() -> None:
    house = locked_house()
    assert house._task_plan(
        ["bring red ball to study", "put grey box next to red ball", "pick up blue ball", "pick up grey box"]
    ) == [
        ["pickup green key in hall", "unlock green door in hall", "drop", "pickup red ball in attic", "goto study", "drop"],
        ["pickup grey box in study", "put grey box next to red ball in study"],
        ["explore"],
    ]
    assert set(house.ways) == {"green door", "blue door"}, "the house itself stays as it is"


def test_the_way_to_a_blocked_room_is_opened_when_the_hand_is_full() -> None:
    assert locked_house("grey box")._task_plan(["bring grey box to attic"]) == [
        ["drop", "pickup green key in hall", "unlock green door in hall", "drop", "pickup grey box in hall", "goto attic", "drop"]
    ]


def test_plans_for_one_subgoal_end_at_the_unlocked_door() -> None:
    assert locked_house()._plan("pick up red ball") == ["pickup green key in hall", "unlock green door in hall"]
    assert locked_house("green key")._plan("unlock green door") == ["unlock green door in hall"]
    assert locked_house("green key")._plan("unlock blue door") == ["explore"]
    house = locked_house()
    house.place["green key"] = "attic"
    assert house._plan("pick up red ball") == ["explore"], "the key lies behind its own door"


def test_what_stands_in_the_way_is_taken_away_first() -> None:
    house = locked_house("grey box")
    house.ways = {"blue ball": ("garage", ("attic",))}
    assert house._hindrances("red ball") == ["red ball blocked by blue ball in garage"]
    assert house._plan("pick up red ball") == ["drop", "pickup blue ball in garage", "drop"]
    assert house._task_plan(["bring red ball to study"]) == [
        ["drop", "pickup blue ball in garage", "drop", "pickup red ball in attic", "goto study", "drop"]
    ]
    assert house.ways, "the house itself stays as it is"


def test_a_thing_that_is_held_to_go_beside_is_put_down_first() -> None:
    house = Lesson(np.random.default_rng(3), {"red ball": "attic"}, "blue key", "hall")
    assert house._task_plan(["put red ball next to blue key"]) == [
        ["drop", "pickup red ball in attic", "put red ball next to blue key in hall"]
    ]


@pytest.mark.parametrize("seed", range(40))
def test_in_a_troubled_lesson_the_hand_often_holds_something_else(seed: int) -> None:
    """And each plan begins with what the observation says that it holds."""
    messages = troubled_lesson(np.random.default_rng(seed))
    for observation, plan in zip(messages[::2], messages[1::2], strict=True):
        first = parse_plan(plan["content"]).skills[0].text
        held = str(observation["content"]).partition(", holding ")[2].partition(". ")[0]
        if held == "nothing":
            assert not first.startswith(("put ", "drop", "unlock "))
        else:
            assert not first.startswith("pickup "), "the hand is full"
            assert not first.startswith("put ") or first.startswith(f"put {held} ")
            assert not first.startswith("unlock ") or first.startswith(f"unlock {held.removesuffix(' key')} door")


def test_trouble_comes_in_both_kinds() -> None:
    fell = swapped = 0
    for seed in range(40):
        house = locked_house("grey box")
        house.rng, house.restless = np.random.default_rng(seed), 1.0
        del house.place["grey box"]  # it is held
        house._trouble()
        assert house.place["grey box"] == "hall"
        assert house.noted == ["Seen: grey box in hall."]
        assert house.held in ("", "green key"), "the balls lie behind locked doors"
        fell, swapped = fell + (house.held == ""), swapped + (house.held != "")
    assert min(fell, swapped) > 5


@pytest.mark.parametrize("seed", range(40))
def test_a_misplanned_lesson_labels_wrong_plans_with_right_ones(seed: int) -> None:
    """A wrong plan is not imitated; the right one begins with the open goal and is no wrong one."""
    messages = misplanned_lesson(np.random.default_rng(seed))
    assert [message["role"] for message in messages] == ["user", "assistant"] * (len(messages) // 2)
    for observation, plan in zip(messages[::2], messages[1::2], strict=True):
        goals = str(observation["content"]).partition("Goals:\n")[2].splitlines()
        right = str(plan.get("label", plan["content"]))
        assert right.partition(". ")[0] == goals[0].partition(". ")[0], "a plan begins with the open goal"
        assert ("label" in plan) != plan.get("train", True)
        assert plan["content"] != plan.get("label", "")


def test_a_failure_to_find_a_thing_changes_no_right_plan() -> None:
    """What was planned moves nothing: only what is seen does."""
    failures = 0
    for seed in range(40):
        messages = list(MisplannedHouse(np.random.default_rng(seed), brief=True).messages(8))
        for plan, observation, then in zip(messages[1::2], messages[2::2], messages[3::2], strict=False):
            told = str(observation["content"])
            if ": failed, no " in told and not re.search("(?m)^(Seen|Gone)", told):
                failures += 1
                assert plan["label"] == then.get("label", then["content"])
    assert failures > 10


@pytest.mark.parametrize("kind", sorted(LESSONS))
def test_a_lesson_says_where_everything_is_that_its_plans_take(kind: str) -> None:
    """Also what the agent laid down itself: a place that can only be guessed teaches guessing."""
    taken = 0
    for seed in range(60):
        read = ""
        for message in LESSONS[kind](np.random.default_rng(seed)):
            if message["role"] == "user":
                read += f"{message['content']}\n"
                continue
            line = str(message.get("label", message["content"])).splitlines()[0]
            take = re.search(r"(?:pickup|goto) (\w+ \w+) in (\w+)$", line)
            if take:
                taken += 1
                seen = re.findall(rf"(?:Seen: |, |You notice ){take[1]} in (\w+)", read)
                assert seen[-1] == take[2], f"{line} after {read}"
    assert taken > 100


def test_turns_of_a_whole_task_begin_with_observations() -> None:
    entries = (
        Entry("task", "Task: 1. a."),
        Entry("briefing", "Inventory"),
        Entry("observation", "one"),
        Entry("plan", "explore\ndrop"),
        Entry("outcome", "explore: ok."),
        Entry("outcome", "drop: failed."),
        Entry("observation", "two"),
        Entry("feedback", "Nothing has changed."),
        Entry("plan", "drop"),
        Entry("outcome", "drop: ok."),
        Entry("observation", "three"),
        Entry("plan", "done"),
    )
    messages = chat_messages(Sample(entries, ("explore\ndrop", "drop", "done")))
    texts = [str(message["content"]) for message in messages]
    turns = dict(zip(texts, encoding._turns(messages, False), strict=True))
    assert turns["Inventory"] == 0, "a turn of its own: the first plan may be made from a pruned one"
    assert turns["one"] == turns["explore: ok."] == turns["drop: failed."] == 1
    assert turns["two"] == turns["Nothing has changed."] == turns["drop: ok."] == 2
    assert turns["three"] == turns["done"] == 3
    assert turns["Task: 1. a."] == ALWAYS_KEPT


def test_an_episode_that_outgrows_the_student_still_teaches() -> None:
    class Small:
        def generate(self, prompt: Prompt, sampling: Sampling, on_line: LineCallback | None = None) -> Generation:
            if len(prompt.segments) > 6:
                raise PromptTooLongError("too long")
            return Generation(text="explore")

    made = demonstrate(EpisodeJob("small", SMALL, 3), Labeller(np.random.default_rng(0), Small(), share=1.0), AgentConfig())
    assert made.episode.end == "context_limit"
    assert made.plans == len(made.samples[0].labels) > 0


def test_a_stubborn_mistake_is_made_again_until_it_is_forbidden() -> None:
    records: list[Record] = []
    for seed in range(4):
        labeller = Labeller(np.random.default_rng(seed), noise=0.5, stubbornness=1.0)
        run_episode(EpisodeJob("expert", SMALL, seed), labeller, AgentConfig(max_replans=30), records.append)
    assert any(record.forbidden for record in records if isinstance(record, PlannerCall)), "the guard has forbidden a mistake"
    told = [record.text for record in records if isinstance(record, TranscriptRecord) and record.entry == "feedback"]
    assert any("(twice)" in text for text in told)


def test_the_expert_gets_a_student_out_of_a_state_in_which_it_is_stuck() -> None:
    class Stuck:
        asked = 0

        def generate(self, prompt: Prompt, sampling: Sampling, on_line: LineCallback | None = None) -> Generation:
            self.asked += 1
            return Generation(text="drop")

    student = Stuck()
    made = demonstrate(EpisodeJob("stuck", SMALL, 3), Labeller(np.random.default_rng(0), student, share=1.0), AgentConfig())
    assert made.episode.success, "the expert plays on from every state in which the student has planned twice"
    played = [entry.text for entry in made.samples[0].entries if entry.kind == "plan"]
    assert played.count("drop") == student.asked < made.plans
    assert played[:2] == ["drop", "drop"] != played[1:3]


# ---- text worlds ----------------------------------------------------------------------------------------------------------------


def test_a_text_worlds_expert_is_cloned_without_noise(fakes: None, tmp_path: Path) -> None:
    todo = chunks([Source(env_id="my_kitchen:Kitchen-v0", episodes=3)], RoundPlay(0, noise=0.5, corrections=1), tmp_path)
    stats = play_chunk(todo[0], BackendFactory(1))
    assert (stats.successes, stats.agreed, stats.samples) == (3, stats.plans, 3)
    messages = chat_messages(next(read_demonstrations(todo[0].path)))
    assert str(messages[0]["content"]).startswith("You act in a text world.")
    assert {message["train"] for message in messages if message["role"] == "assistant"} == {True}


def test_the_recipe_for_textworld_names_what_exists() -> None:
    recipe = Recipe(**json.loads((Path(__file__).parent.parent / "tools" / "planner_textworld.json").read_text()))
    assert {source.env_id.replace("Searched", "") for source in recipe.expert_sources} == set(find_suite(recipe.suites[0]).env_ids)
    assert all("Searched" in source.env_id for round_ in recipe.student_rounds for source in round_.sources), (
        "gold paths correct nobody"
    )
    assert {source.env_id for round_ in recipe.rounds for source in round_.sources} <= set(gym.registry)
    assert recipe.name != Recipe().name, "--install must not replace the bundled planner"
    chunks(recipe.rounds[0].sources, RoundPlay(0, recipe.noise, recipe.corrections), Path())


@pytest.mark.slow
def test_a_recipe_goes_on_from_a_planner_on_other_episodes(tmp_path: Path) -> None:
    """With a learning rate of next to nothing the weights stay those of the planner that it goes on from."""
    source = Source(env_id="PutNext", episodes=8)
    first = Recipe(expert_sources=(source,), student_rounds=(), train_minutes=0.02, lessons=Lessons(plain=20, locked=20))
    planner = Path(run_recipe(first, tmp_path / "first", 1, 0, False, Reports())["planner"])
    more = first.model_copy(update={"start_from": str(planner), "skip_seeds": 8, "learning_rate": 1e-12})
    again = Path(run_recipe(more, tmp_path / "more", 1, 0, False, Reports())["planner"])
    words, words_before = (AutoTokenizer.from_pretrained(path).get_vocab() for path in (again, planner))
    assert words == words_before
    weights, before = (load_file(path / "model.safetensors") for path in (again, planner))
    assert all(torch.allclose(weights[name], before[name]) for name in before)
    played = [{path.name for path in (tmp_path / run / "round0").glob("*-subgoal-*")} for run in ("first", "more")]
    assert played[0].isdisjoint(played[1])


def test_skipped_seeds_are_not_played(tmp_path: Path) -> None:
    source, how = Source(env_id=SMALL, episodes=10, chunk=4), RoundPlay(1, 0.0, 1)
    every, later = chunks([source] * 2, how, tmp_path), chunks([source] * 2, how, tmp_path, skip_seeds=10)
    assert [chunk.first_seed + 10 for chunk in every] == [chunk.first_seed for chunk in later]
    with pytest.raises(ValueError, match="skip fewer seeds"):
        chunks([source] * 2, how, tmp_path, skip_seeds=10**6)


def test_a_planner_to_go_on_from_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no planner to go on from"):
        run_recipe(Recipe(start_from=str(tmp_path / "none"), suites=()), tmp_path / "run", 1, 0, False, Reports())


def test_an_unknown_suite_is_refused_before_anything_is_played(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="suite 'nope' is unknown"):
        run_recipe(Recipe(suites=("nope",)), tmp_path / "run", 1, 0, False, Reports())
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_recipe_trains_a_planner_of_text_worlds(fakes: None, tmp_path: Path) -> None:
    recipe = Recipe(
        name="planner-kitchen",
        suites=(),
        expert_sources=(Source(env_id="my_kitchen:Kitchen-v0", episodes=8),),
        student_rounds=(),
        lessons=Lessons(),
        train_minutes=0.02,
    )
    planner = Path(run_recipe(recipe, tmp_path, 1, 0, False, Reports())["planner"])
    card = (planner / "README.md").read_text()
    assert "# The planner `planner-kitchen` of E-RECAP" in card
    assert "Worlds: my_kitchen:Kitchen-v0." in card
    assert "--backend 'baseline?model=planner-kitchen'" in card
