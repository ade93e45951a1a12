"""Plans for the whole task: what the expert imagines, how far it plans, what the history hears, and when a plan is given up."""

import re
from itertools import pairwise

import numpy as np
import pytest

from agents.expert_backend import ExpertBackend
from agents.gridworld.belief import Belief
from agents.gridworld.simulation import carry_out, imagined
from agents.gridworld.situation import sought
from agents.gridworld.task_plan import reached, task_plan
from agents.gridworld.world import GridWorld
from agents.loop import WorldBackend
from agents.world import Progress
from envs import DisturbanceRates, make_env
from planner import Generation, ReplanPolicy, parse_skill

QUIET = "ERecap/HouseholdQuiet-v0"


def rates(**changes):
    return DisturbanceRates.none().model_copy(update=changes)


def explored(env_id, seed):
    """A world whose agent has looked at everything that it can reach, and its open subgoals."""
    world = GridWorld(make_env(env_id, max_steps=5000), "terse", "task")
    progress = world.reset(seed)
    world.describe([])
    for _ in range(12):
        _drive(world, "explore")
    return world, list(progress.goals)


def _drive(world, line):
    run = world.run(parse_skill(line))
    try:
        while True:
            next(run)
    except StopIteration as stop:
        return stop.value


def facts(belief: Belief):
    places = {(thing.identity, thing.state, thing.cell) for thing in belief.things.values()}
    return belief.cell, belief.direction, belief.here, belief.held, places


# ---- imagination ---------------------------------------------------------------------------------------------------------------


def test_what_is_imagined_comes_true_in_a_house_that_is_known_and_quiet():
    compared = 0
    for seed in range(6):
        world, goals = explored(QUIET, seed)
        ahead, known = imagined(world.belief), (world.belief.kind > 0).sum()
        for line in task_plan(world.belief, goals, range(1, len(goals) + 1)).splitlines():
            call = parse_skill(line)
            succeeds = call.name == "explore" or carry_out(ahead, call)
            if world.env.unwrapped.over or call.name == "explore":
                break
            assert succeeds == _drive(world, call.text).succeeded
            if (world.belief.kind > 0).sum() > known:
                break  # the agent has seen what nobody could have imagined
            assert facts(ahead) == facts(world.belief)
            compared += 1
    assert compared >= 12


def test_imagining_leaves_the_belief_as_it_is():
    world, goals = explored(QUIET, 3)
    arrays = {name: getattr(world.belief, name).copy() for name in ("kind", "color", "state", "room", "seen_at")}
    before = facts(world.belief), dict(world.belief.named), set(world.belief.surprises)
    task_plan(world.belief, goals, range(1, len(goals) + 1))
    assert (facts(world.belief), dict(world.belief.named), set(world.belief.surprises)) == before
    assert all(np.array_equal(getattr(world.belief, name), array) for name, array in arrays.items())


@pytest.mark.parametrize(
    "line", ["pickup red ball in attic", "drop", "put red ball next to blue ball", "unlock red door", "open red box"]
)
def test_a_skill_that_cannot_work_fails_in_imagination_too(line):
    belief = imagined(explored(QUIET, 0)[0].belief)
    belief.things.clear()
    assert not carry_out(belief, parse_skill(line))


# ---- how far the expert plans --------------------------------------------------------------------------------------------------


def test_in_a_house_that_is_known_one_plan_fulfils_the_task(players):
    """The inventory of a house that nothing has changed is all that the expert needs, boxes apart."""
    runs = [players.play("ERecap/HouseholdReplan-v0", seed=seed, horizon="task") for seed in range(2)]
    plans = [call.plan for run in runs for call in run.calls]
    assert all(run.end.success for run in runs)
    assert max(map(len, plans)) >= 12
    assert all("explore" not in plan[: plan.index("explore")] for plan in plans if "explore" in plan)


@pytest.mark.parametrize("seed", range(4))
def test_a_plan_covers_the_subgoals_in_order_and_ends_with_a_search(players, seed):
    run = players.play("ERecap/Household-v0", seed=seed, horizon="task")
    for call in run.calls:
        looks = [number for number, line in enumerate(call.plan) if line == "explore"]
        assert looks == list(range(len(call.plan) - len(looks), len(call.plan))), "nothing is planned behind a search"
    assert run.end.success


def test_an_open_subgoal_is_planned_for_even_if_it_seems_to_be_reached():
    world, goals = explored(QUIET, 1)
    done = next(f"bring {t.name} to {world.belief.room_of(t)}" for t in world.belief.things.values() if t.name.endswith("ball"))
    assert reached(world.belief, done)
    assert task_plan(world.belief, [done], [1]) != "1. explore", "the world says that it is open"
    alone = task_plan(world.belief, [goals[0]], [1])
    assert task_plan(world.belief, [goals[0], done], [1, 2]) == alone, "later it comes true by itself"


def test_a_subgoal_of_an_unknown_form_is_refused():
    world, _ = explored(QUIET, 1)
    with pytest.raises(ValueError, match="of no known form"):
        reached(world.belief, "sing a song")
    with pytest.raises(ValueError, match="of no known form"):
        task_plan(world.belief, ["sing a song"], [1])


def test_what_a_subgoal_lacks():
    belief = Belief(("kitchen", "hall"), unique_names=True)
    assert sought(belief, "put red ball next to blue box") == {"red ball", "blue box"}
    assert sought(belief, "bring red ball to hall") == {"red ball", "hall"}
    assert sought(belief, "pick up ball") == {"ball"}
    assert sought(belief, "") == frozenset()


# ---- the history ---------------------------------------------------------------------------------------------------------------


def test_after_each_skill_the_history_says_how_it_ended(players):
    backend = players.Script("explore\ndrop", "explore")
    run = players.play(QUIET, backend, max_replans=2, horizon="task")
    assert [r.entry for r in run.transcript] == [
        "task",
        "observation",
        "plan",
        "outcome",
        "outcome",
        "observation",
        "plan",
        "outcome",
    ]
    outcomes = [r.text for r in run.transcript if r.entry == "outcome"]
    assert outcomes[0].startswith("explore: ok")
    assert outcomes[1].startswith("drop: failed, holding nothing.\nProgress 0/")
    assert "drop: failed" not in run.observations[1], "it has been said"
    for before, after in pairwise(backend.prompts):
        assert len(after.segments) > len(before.segments)
        assert [s.text for s in after.segments[: len(before.segments)]] == [s.text for s in before.segments]


def test_the_current_plan_is_protected_and_the_outcomes_are_not(players):
    backend = players.Script("explore\ndrop", "explore")
    players.play(QUIET, backend, max_replans=2, horizon="task")
    protected = [segment.protected for segment in backend.prompts[1].segments]
    assert protected == [True, True, False, True, False, False, True], "system, task, observation, plan, outcomes, observation"


def test_the_observation_names_all_open_subgoals(players):
    for horizon, form in (("task", "Goals:\n"), ("subgoal", "Goal: ")):
        run = players.play(QUIET, players.Script("explore"), max_replans=1, horizon=horizon)
        task, seen = run.transcript[0].text, run.observations[0]
        goals = seen.partition(form)[2].removesuffix(".").splitlines()
        assert len(goals) == (run.end.subgoals_total if horizon == "task" else 1)
        assert all(goal.partition(" (")[0] in task for goal in goals)


def test_behind_a_goal_stands_what_keeps_the_agent_from_it():
    seen = set[str]()
    for seed in range(5, 12):
        world = GridWorld(make_env("ERecap/HouseholdReplan-v0"), "terse", "task")
        world.reset(seed)
        for _ in range(12):
            goal = world.describe([]).partition("Goals:\n")[2].partition("\n")[0]
            plan = [re.sub(r"^\d+\. ", "", line) for line in re.split(r"\n(?=\d+\. )", world.expert())[0].splitlines()]
            seeks = plan[-1].startswith(("explore", "open")) or any(line.startswith("unlock") for line in plan)
            assert seeks or "not found" not in goal, (goal, plan)
            assert "(" in goal or not seeks or "unlock" in goal, (goal, plan)
            seen |= {said for said in ("blocked by", "not found") if said in goal}
            if world.env.unwrapped.over or not all(_drive(world, line).succeeded for line in plan):
                break
    assert seen == {"blocked by", "not found"}


# ---- when a plan is given up ---------------------------------------------------------------------------------------------------


class FirstPlan:
    """The expert, which keeps what was left of its plan when it was asked again."""

    def plan(self, world, prompt, sampling, on_line=None):
        return ExpertBackend().plan(world, prompt, sampling)


def test_a_reached_subgoal_is_progress_and_no_reason(players):
    runs = [players.play("ERecap/HouseholdReplan-v0", FirstPlan(), seed=seed, horizon="task") for seed in range(2)]
    assert isinstance(FirstPlan(), WorldBackend)
    for run in runs:
        assert "subgoal_reached" not in {call.reason for call in run.calls}
        kept = [b.subgoals_done > a.subgoals_done and a.replan == b.replan for a, b in pairwise(run.steps)]
        assert any(kept), "a plan goes on beyond a subgoal"


def test_the_rest_of_a_plan_begins_with_the_line_that_failed(players):
    run = players.play(QUIET, players.Script("drop\nexplore\nexplore", "explore"), max_replans=2, horizon="task")
    assert run.calls[0].rest == ()
    assert run.calls[1].rest == ("drop", "explore", "explore")
    assert run.calls[1].draft == "drop\nexplore\nexplore"
    assert [call.horizon for call in run.calls] == ["task", "task"]


def test_the_draft_of_a_plan_keeps_the_numbers_of_the_subgoals(players):
    backend = players.Script("1. drop\n2. explore\nexplore", "explore")
    run = players.play(QUIET, backend, max_replans=2, horizon="task")
    assert run.calls[1].rest == ("drop", "explore", "explore")
    assert backend.prompts[1].draft == run.calls[1].draft == "1. drop\n2. explore\nexplore"


def test_a_draft_begins_with_the_number_of_its_subgoal(players):
    """The line with the number was carried out; a plan for the rest of the subgoal begins with the number again."""
    run = players.play(QUIET, players.Script("4. explore\ndrop\n5. explore", "explore"), max_replans=2, horizon="task")
    assert run.calls[1].rest == ("drop", "explore")
    assert run.calls[1].draft == "4. drop\n5. explore"


def test_the_draft_of_a_plan_in_one_line_is_what_was_read(players):
    run = players.play(QUIET, players.Script("drop, explore", "explore"), max_replans=2, horizon="task")
    assert run.calls[1].draft == "\n".join(run.calls[1].rest)


@pytest.mark.parametrize("seed", range(4))
def test_the_first_line_for_each_subgoal_has_its_number(seed):
    world, goals = explored(QUIET, seed)
    numbers = range(3, len(goals) + 3)
    lines = task_plan(world.belief, goals, numbers).splitlines()
    written = [int(line.partition(".")[0]) for line in lines if line[0].isdigit()]
    assert lines[0].startswith("3. ")
    assert written == sorted(set(written))
    assert set(written) <= set(numbers)


def test_a_search_is_over_when_its_thing_is_found(players):
    runs = [players.play(QUIET, seed=seed, horizon="task") for seed in range(12)]
    found = [step for run in runs for step in run.steps if step.outcome.startswith("ok, found ")]
    assert found
    assert all(step.skill == "explore" and step.succeeded for step in found)
    assert not any(step.outcome.startswith("ok, found") for step in players.play(QUIET, seed=0).steps), "as ever for one subgoal"


@pytest.mark.parametrize(
    ("now", "horizon", "replaced"),
    [
        (("a", "b", "c"), "task", False),
        (("b", "c"), "task", False),
        (("c",), "task", False),
        ((), "task", False),
        (("a", "x", "c"), "task", True),
        (("x", "c"), "task", True),
        (("a", "x", "c"), "subgoal", False),
        (("x", "b", "c"), "subgoal", True),
    ],
)
def test_which_changes_of_the_open_subgoals_are_replacements(now, horizon, replaced):
    def progress(goals, done):
        return Progress("", goals[0] if goals else "", done, 3, goals)

    done = 0 if horizon == "subgoal" else 3 - len(now)
    assert progress(now, done).replaces(progress(("a", "b", "c"), 0), horizon) == replaced


@pytest.mark.parametrize(("done", "replaced"), [(0, True), (1, False)])
@pytest.mark.parametrize("horizon", ["subgoal", "task"])
def test_where_a_world_lists_no_subgoals_a_new_one_after_progress_is_no_replacement(horizon, done, replaced):
    assert Progress("", "b", done, 3).replaces(Progress("", "a", 0, 3), horizon) == replaced


def test_without_a_replan_at_its_end_a_plan_is_all_there_is(players):
    run = players.play(QUIET, players.Script("explore\nexplore"), policy=ReplanPolicy(on_plan_end=False), horizon="task")
    assert (run.end.end, run.end.replans, len(run.steps)) == ("plan_end", 1, 2)


def test_without_a_second_request_an_unreadable_plan_costs_a_step(players):
    run = players.play(QUIET, players.Script("fly", "explore"), max_replans=2, policy=ReplanPolicy(on_parse_error=False))
    assert [call.reason for call in run.calls] == ["start", "failure"]


@pytest.mark.parametrize("horizon", ["subgoal", "task"])
def test_a_changed_goal_that_is_no_reason_leaves_the_plan_as_it_is(players, horizon):
    policy = ReplanPolicy(on_goal_change=False)
    runs = [players.play("ERecap/HouseholdTroubled-v0", seed=seed, horizon=horizon, policy=policy) for seed in range(4)]
    interrupted = 0
    for run in runs:
        assert all(call.reason != "goal_changed" for call in run.calls)
        for before, after in pairwise(run.steps):
            if before.outcome == "interrupted, the goal changed":
                interrupted += 1
                assert (after.skill, after.replan) == (before.skill, before.replan), "the same line goes on"
    assert interrupted


def test_a_cut_answer_says_so_and_keeps_its_lines(players):
    class Cut:
        def generate(self, prompt, sampling, on_line=None):
            return Generation(text="explore\nexp", new_tokens=7, truncated=True)

    run = players.play(QUIET, Cut(), max_replans=1, horizon="task")
    assert run.calls[0].plan == ("explore",)
    feedback = next(r.text for r in run.transcript if r.entry == "feedback")
    assert feedback.startswith("The answer was cut after 7 tokens, its last line was left out")


def test_a_line_that_was_cut_is_no_plan_that_was_tried(players):
    class Cut:
        def generate(self, prompt, sampling, on_line=None):
            return Generation(text="pickup red b", new_tokens=1, truncated=True)

    run = players.play(QUIET, Cut(), max_replans=6, horizon="task")
    assert [call.forbidden for call in run.calls] == [0] * 6
    told = [r.text for r in run.transcript if r.entry == "feedback"]
    assert not any("was tried" in text for text in told)
    assert told[0].startswith("The answer was cut after 1 token, before its first line was complete")
