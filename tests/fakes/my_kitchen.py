"""A kitchen in text: find the food, take it, cut it, cook it, serve it."""

import string
from typing import Any

import gymnasium as gym

FOODS = ("carrot", "potato", "onion", "mushroom")
PLACES = ("fridge", "cupboard", "drawer", "basket")
STEPS = ("take", "cut", "cook", "serve")
SENTENCE = gym.spaces.Text(max_length=1000, charset=string.printable)


class Kitchen(gym.Env[str, str]):
    """Several dishes, each of one food that lies in a closed place. Now and then the stove goes out while something cooks."""

    observation_space = SENTENCE
    action_space = SENTENCE

    def __init__(self, dishes: int = 2, goes_out: float = 0.2) -> None:
        self.dishes, self.goes_out = dishes, goes_out

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.menu = [FOODS[i] for i in self.np_random.permutation(len(FOODS))[: self.dishes]]
        places = [PLACES[i] for i in self.np_random.permutation(len(PLACES))]
        self.inside = dict(zip(places, self.menu, strict=False))
        self.opened: list[str] = []
        self.done_with = dict.fromkeys(self.menu, 0)  # steps of STEPS done with each food
        return f"You are in a kitchen with a {', a '.join(PLACES)}. All are closed.", self._info([])

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        before, events = self._served(), []
        if action not in self._valid():
            text = f"You cannot {action} here."
        elif action.startswith("open "):
            text = self._open(action.removeprefix("open "))
        elif action.startswith("cook ") and self.np_random.random() < self.goes_out:
            text, events = "The stove went out. Nothing is cooked.", ["the stove went out"]
        else:
            text = self._prepare(*action.split(" "))
        finished = self._served() == len(self.menu)
        return text, (self._served() - before) / len(self.menu), finished, False, self._info(events)

    def expert_plan(self) -> list[str]:
        """All that is left to do with the food that was found; else open the next place."""
        known = [food for place, food in self.inside.items() if place in self.opened]
        left = [f"{step} {food}" for food in known for step in STEPS[self.done_with[food] :]]
        return left or [f"open {place}" for place in PLACES if place not in self.opened][:1]

    def _open(self, place: str) -> str:
        self.opened.append(place)
        return f"In the {place} there is {self.inside.get(place, 'nothing')}."

    def _prepare(self, step: str, food: str) -> str:
        self.done_with[food] += 1
        return f"You {step} the {food}."

    def _valid(self) -> list[str]:
        found = [food for place, food in self.inside.items() if place in self.opened and self.done_with[food] < len(STEPS)]
        return [f"open {p}" for p in PLACES if p not in self.opened] + [f"{STEPS[self.done_with[f]]} {f}" for f in found]

    def _served(self) -> int:
        return sum(count == len(STEPS) for count in self.done_with.values())

    def _info(self, disturbances: list[str]) -> dict[str, Any]:
        return {
            "task": f"serve {' and '.join(self.menu)}, each cut and cooked",
            "valid_actions": self._valid(),
            "progress": (self._served(), len(self.menu)),
            "success": self._served() == len(self.menu),
            "disturbances": disturbances,
        }


gym.register("Kitchen-v0", entry_point=Kitchen, max_episode_steps=40)
