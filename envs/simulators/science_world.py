"""ScienceWorld (Wang et al. 2022): thirty tasks of a science lesson, such as boiling water or growing a plant.

Its Java server is called directly. The package's own wrapper asks for all valid actions after each step, which takes most of its
time.
"""

from functools import cache
from typing import Any

import gymnasium as gym

from envs.seeds import HELD_OUT
from envs.simulators.gold_path import GoldPath
from envs.simulators.jvm import Program, Simulator
from envs.simulators.text import SENTENCE

PROGRAM = Program("ScienceWorld", "scienceworld", "scienceworld.jar", "scienceworld.runtime.pythonapi.PythonInterface")
TASKS = (
    "boil", "change-the-state-of-matter-of", "chemistry-mix", "chemistry-mix-paint-secondary-color",
    "chemistry-mix-paint-tertiary-color", "find-animal", "find-living-thing", "find-non-living-thing", "find-plant", "freeze",
    "grow-fruit", "grow-plant", "identify-life-stages-1", "identify-life-stages-2", "inclined-plane-determine-angle",
    "inclined-plane-friction-named-surfaces", "inclined-plane-friction-unnamed-surfaces", "lifespan-longest-lived",
    "lifespan-longest-lived-then-shortest-lived", "lifespan-shortest-lived", "measure-melting-point-known-substance",
    "measure-melting-point-unknown-substance", "melt", "mendelian-genetics-known-plant", "mendelian-genetics-unknown-plant",
    "power-component", "power-component-renewable-vs-nonrenewable-energy", "test-conductivity",
    "test-conductivity-of-unknown-substances", "use-thermometer",
)  # fmt: skip
MAX_STEPS = 300
"""Steps of an episode. Most gold paths have fewer than 100."""
_REFUSALS = {
    "No known action matches": "the world does not know this action, or a thing of this name is not here",
    "Ambiguous request": "several things have this name: answer with the number of the one that is meant",
}
"""Beginnings of the replies to actions that were not carried out, and what the planner reads."""
_REVEALING = ("look around", "read ")
"""Beginnings of the actions after which a plan ends. A gold path looks around wherever it does not know what comes next."""


class ScienceWorldEnv(gym.Env[str, str]):
    """One task of ScienceWorld; the seed chooses one of its variations.

    Observation
        What the simulator says. ``info`` has the task, the forms of all actions (``briefing``, at first), what is in sight and
        in the inventory and what actions can name now (``state``), and the score as ``progress``.
    Actions
        The simulator's own, such as ``open door to kitchen``. Why one was not carried out is said in ``info["refused"]``.
    Rewards
        The change of the score, which is 1 when the task is done.
    Termination
        The simulator says so: the task is done or has failed. ``info["success"]`` is the full score and nothing else.

    Parameters
    ----------
    task
        The simulator's name of the task, one of ``TASKS``.
    simplifications
        The simulator's own, such as ``easy`` or ``openDoors,teleportAction``; none by default.
    list_actions
        Whether ``info`` has the valid actions: about a thousand in a room. Asking for them takes longer than the step.
    """

    observation_space = SENTENCE
    action_space = SENTENCE

    def __init__(self, task: str, simplifications: str = "", list_actions: bool = False) -> None:
        if task not in TASKS:
            raise ValueError(f"task {task!r} is unknown to ScienceWorld: choose from {', '.join(TASKS)}")
        self.task, self.simplifications, self.list_actions = task, simplifications, list_actions
        self._simulator: Simulator | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Begin a variation of the task: one of its test variations for a held-out seed, else one of its training variations."""
        super().reset(seed=seed)
        train, test = variations(self.task)
        self.variation = int(self.np_random.choice(test if seed is not None and seed >= HELD_OUT else train))
        self._simulator = simulator = self._simulator or Simulator(PROGRAM)
        refusal = simulator.ask("load", self.task, self.variation, self.simplifications, True)
        if refusal:
            raise ValueError(f"simplifications {self.simplifications!r} of the task {self.task!r} are refused: {refusal}")
        self._described, self._score = str(simulator.ask("getTaskDescription")).strip(), 0.0
        self._gold = GoldPath(
            simulator.ask_texts("getGoldActionSequence"), self._moves(), lambda action: action.startswith(_REVEALING)
        )
        forms = ", ".join(simulator.ask_texts("getPossibleActions"))
        briefing = f"The actions are: {forms}. Write for OBJ the name of a thing."
        return str(simulator.ask("freeActionLook")).strip(), self._info() | {"briefing": briefing}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Take one action."""
        assert self._simulator is not None, "reset begins an episode"
        said = str(self._simulator.ask("step", action)).strip()
        score, ended = float(self._simulator.ask("getScore")), bool(self._simulator.ask("getCompleted"))
        self._gold.take(action, self._moves())
        reward, self._score = score - self._score, score
        refused = next((reason for beginning, reason in _REFUSALS.items() if said.startswith(beginning)), None)
        return said or "Nothing happens.", reward, ended or score < 0, False, self._info() | {"refused": refused}

    def expert_plan(self) -> list[str]:
        """Return the next actions of the task's gold path (``GoldPath.plan``)."""
        return self._gold.plan()

    def close(self) -> None:
        """Let go of the simulator; the Java process stays for the next episode."""
        if self._simulator is not None:
            self._simulator.close()
        self._simulator = None

    def _moves(self) -> int:
        """Return the time that has passed. It stands still while an action changes nothing, and never comes back."""
        assert self._simulator is not None
        return int(self._simulator.ask("getNumMoves"))

    def _info(self) -> dict[str, Any]:
        assert self._simulator is not None
        look, inventory = (str(self._simulator.ask(f"freeAction{what}")).strip() for what in ("Look", "Inventory"))
        things = ", ".join(self._simulator.ask_texts("getPossibleObjects"))
        listed = sorted(self._simulator.ask_texts("getValidActionObjectCombinations")) if self.list_actions else None
        return {
            "task": self._described,
            "valid_actions": listed,
            "state": [look, inventory, f"Actions can name: {things}."],
            "progress": min(1.0, max(0.0, self._score)),
            "success": self._score >= 1,
        }


@cache
def variations(task: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the numbers of a task's training and test variations, as the simulator divides them."""
    simulator = Simulator(PROGRAM)
    simulator.ask("load", task, 0, "", False)
    train, test = (tuple(simulator.ask_numbers(f"getVariations{fold}")) for fold in ("Train", "Test"))
    simulator.close()
    return train, test
