"""TextWorld-Express (Jansen and Cote 2022): eight kinds of text games, among them cooking and coin collecting.

Its Java server is called as its package does, without the package's wrapper, which starts a Java process per environment.
"""

import json
from typing import Any, Literal

import gymnasium as gym

from envs.seeds import HELD_OUT
from envs.simulators.gold_path import GoldPath
from envs.simulators.jvm import Program, Simulator
from envs.simulators.search import SEARCHES, Search
from envs.simulators.text import SENTENCE

PROGRAM = Program("TextWorld-Express", "textworld_express", "textworld-express.jar", "textworldexpress.runtime.PythonInterface")
GAMES = {
    "Cooking": "cookingworld",
    "Coin": "coin",
    "CommonSense": "twc",
    "MapReader": "mapreader",
    "Arithmetic": "arithmetic",
    "Sorting": "sorting",
    "SimonSays": "simonsays",
    "PeckingOrder": "peckingorder",
}
"""The simulator's name of each kind of game, by the name in our ids."""
MAX_STEPS = 100
"""Steps of an episode, as in the simulator's own wrapper."""
DEV_SEEDS, TEST_SEEDS, SPLIT = 10_000, 20_000, 1000
"""The simulator's own splits: the first seed of its development and of its test games, and how many each split has."""
_REVEALING = ("look ", "read ", "open ", "move ", "examine ", "task", "inventory")
"""Beginnings of the actions that show something new."""


def game_of(seed: int) -> tuple[str, int]:
    """Return the split and the simulator's seed of the game that a seed stands for.

    Held-out seeds are the simulator's test games, in order and again from the first after ``SPLIT`` of them. All others are
    training games of as many seeds; the development and test seeds are left out.
    """
    if seed >= HELD_OUT:
        return "test", TEST_SEEDS + (seed - HELD_OUT) % SPLIT
    return "train", seed if seed < DEV_SEEDS else seed + TEST_SEEDS


def reveals(game: str, action: str) -> bool:
    """Tell whether an action of a game shows something new. In Simon says, each does; an opened door shows nothing yet."""
    return game == "simonsays" or (action.startswith(_REVEALING) and not action.startswith("open door "))


class TextWorldExpressEnv(gym.Env[str, str]):
    """One kind of game of TextWorld-Express.

    Observation
        What the game says. ``info`` has the task, the actions that are valid now in alphabetical order, what is in sight and in the
        inventory (``state``), and the score as ``progress``.
    Actions
        The game's own. Any text may be sent; what the game does not know changes nothing.
    Rewards
        The change of the score, which is 1 when the task is done.
    Termination
        The score is 1, or the game says that the task has failed. ``info["success"]`` is the full score and nothing else.

    Parameters
    ----------
    game
        The simulator's name of the kind, a value of ``GAMES``.
    parameters
        The simulator's properties for making games, such as ``numLocations=5, includeDoors=0``; empty for its own.
    expert
        ``gold`` for the game's gold path; ``search`` for an expert that can be asked in any state (``SEARCHES`` has its games).
    """

    observation_space = SENTENCE
    action_space = SENTENCE

    def __init__(self, game: str, parameters: str = "", expert: Literal["gold", "search"] = "gold") -> None:
        if game not in GAMES.values():
            raise ValueError(f"game {game!r} is unknown to TextWorld-Express: choose from {', '.join(GAMES.values())}")
        if expert == "search" and game not in SEARCHES:
            raise ValueError(f"game {game!r} has no expert that searches: choose from {', '.join(SEARCHES)}, or expert='gold'")
        self.game, self.parameters, self.expert = game, parameters, expert
        self._simulator: Simulator | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Begin the game of a seed (``game_of``), by default a training game drawn at random."""
        super().reset(seed=seed)
        simulator = self._loaded()
        split, number = game_of(int(self.np_random.integers(DEV_SEEDS)) if seed is None else seed)
        said = json.loads(simulator.ask("generateNewGameJSON", number, split, self.expert == "gold"))
        self._task, self._score = str(simulator.ask("getTaskDescription")), 0.0
        self._search: Search | None = None
        if self.expert == "search":
            self._search = SEARCHES[self.game]()
            self._search.see("", said)
        else:
            gold = simulator.ask_texts("getGoldActionSequence")
            self._gold = GoldPath(gold, _state(said), lambda action: reveals(self.game, action))
        return _text(said), self._info(said)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Take one action."""
        said = json.loads(self._loaded().ask("stepJSON", action))
        if self._search is None:
            self._gold.take(action, _state(said))
        else:
            self._search.see(action, said)
        reward, self._score = float(said["score"]) - self._score, float(said["score"])
        ended = bool(said["tasksuccess"]) or bool(said["taskfailure"]) or self._score >= 1
        return _text(said), reward, ended, False, self._info(said)

    def expert_plan(self) -> list[str]:
        """Return the next actions of the game's gold path (``GoldPath.plan``), or of the expert that searches."""
        return self._gold.plan() if self._search is None else self._search.plan()

    def close(self) -> None:
        """Let go of the simulator; the Java process stays for the next episode."""
        if self._simulator is not None:
            self._simulator.close()
        self._simulator = None

    def _loaded(self) -> Simulator:
        if self._simulator is None:
            self._simulator = Simulator(PROGRAM)
            refusal = self._simulator.ask("load", self.game, self.parameters)
            if refusal:
                raise ValueError(f"parameters {self.parameters!r} of the game {self.game!r} are refused: {refusal}")
        return self._simulator

    def _info(self, said: dict[str, Any]) -> dict[str, Any]:
        return {
            "task": self._task,
            "valid_actions": sorted(said["validActions"]),
            "state": [said["look"], said["inventory"]],
            "progress": min(1.0, max(0.0, float(said["score"]))),
            "success": float(said["score"]) >= 1,
        }


def _text(said: dict[str, Any]) -> str:
    return str(said["observation"]).strip() or "Nothing happens."


def _state(said: dict[str, Any]) -> tuple[Any, ...]:
    """Return what tells two states of a game apart."""
    return said["look"], said["inventory"], said["score"], tuple(sorted(said["validActions"]))
