"""Experts for two kinds of TextWorld-Express games that can be asked in any state: they plan from what the agent has read.

A gold path holds for the agent that follows it. These experts search as an agent can: room after room, back where it came from.
They know the texts of the games, nothing hidden.
"""

import re
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

Said = dict[str, Any]
"""What a game says after a step: ``observation``, ``look``, ``inventory``, ``validActions``."""
_ROOM = re.compile(r"You are in the ([^.]+)\.")
_EXIT = re.compile(r"[Tt]o the (North|South|East|West) you see (a closed|the) ([^.]+)\.")
_BACK = {"north": "south", "south": "north", "east": "west", "west": "east"}
_DONE_AS = {
    "chop": "chopped", "slice": "sliced", "dice": "diced", "fry": "fried", "roast": "roasted", "grill": "grilled",
}  # fmt: skip
_DEVICES = {"fry": "stove", "roast": "oven", "grill": "barbeque"}
_UNUSED = ("trash can", "dishwasher")
"""Containers of a kitchen in which the games hide nothing."""


class Search(Protocol):
    """An expert that reads along."""

    def see(self, action: str, said: Said) -> None:
        """Read what the game says after an action; the action is empty at the beginning."""
        ...

    def plan(self) -> list[str]:
        """Return the next actions, up to the first one that shows something new; none where nothing is left to do."""
        ...


class RoomMap:
    """The rooms that the agent has been in, their exits, and how it came to each of them."""

    def __init__(self) -> None:
        self.here = ""
        self.exits: dict[str, dict[str, str]] = {}
        """Per room, the room behind each exit by its direction; empty behind a closed door."""
        self._came_by: dict[str, str] = {}

    def see(self, action: str, look: str) -> None:
        """Take in the sight of a room."""
        found = _ROOM.search(look)
        if found is None:
            return
        if found[1] not in self.exits and action.startswith("move "):
            self._came_by[found[1]] = action.removeprefix("move ")
        self.here = found[1]
        self.exits[self.here] = {way.lower(): room if kind == "the" else "" for way, kind, room in _EXIT.findall(look)}

    def explore(self) -> list[str]:
        """Open the doors here, then enter a room that the agent has not been in; else go back to where it first came from.

        Where an agent has left the way back and rooms are left over elsewhere, go there. Nothing is left at the end of the search.
        """
        closed = [way for way, room in sorted(self.exits[self.here].items()) if not room]
        if closed:
            return [f"open door to {way}" for way in closed]
        unentered = [way for way, room in sorted(self.exits[self.here].items()) if room not in self.exits]
        if unentered:
            return [f"move {unentered[0]}"]
        if any(map(self._leads_on, self._rooms_back())):
            return [f"move {_BACK[self._came_by[self.here]]}"]
        return self.way_to(self._leads_on) or []

    def _leads_on(self, room: str) -> bool:
        """Tell whether a room has an exit to a room that the agent has not been in."""
        return any(behind not in self.exits for behind in self.exits[room].values())

    def _rooms_back(self) -> list[str]:
        """List the rooms on the way back, as far as its doors are open; the last is the beginning."""
        rooms: list[str] = []
        room = self.here
        while room in self._came_by and (room := self.exits[room].get(_BACK[self._came_by[room]], "")):
            rooms.append(room)
        return rooms

    def way_to(self, is_there: Callable[[str], bool]) -> list[str] | None:
        """Return the moves to the nearest room of a kind, through rooms that the agent has been in; ``None`` if there is none."""
        queue: deque[tuple[str, list[str]]] = deque([(self.here, [])])
        met = {self.here}
        while queue:
            room, moves = queue.popleft()
            if is_there(room):
                return moves
            for way, next_room in sorted(self.exits[room].items()):
                if next_room in self.exits and next_room not in met:
                    met.add(next_room)
                    queue.append((next_room, [*moves, f"move {way}"]))
        return None


class CoinSearch:
    """Looks into room after room, and takes the coin."""

    def __init__(self) -> None:
        self.map = RoomMap()
        self._valid: tuple[str, ...] = ()

    def see(self, action: str, said: Said) -> None:
        """Read what the game says (``Search``)."""
        self.map.see(action, said["look"])
        self._valid = tuple(said["validActions"])

    def plan(self) -> list[str]:
        """Take the coin, or go on with the search (``Search``)."""
        return ["take coin"] if "take coin" in self._valid else self.map.explore()


class CookingSearch:
    """Reads the cookbook, collects the ingredients and the knife, does what the recipe says, and eats the meal."""

    def __init__(self) -> None:
        self.map = RoomMap()
        self._valid: tuple[str, ...] = ()
        self._held: tuple[str, ...] = ()
        self._sights: dict[str, str] = {}
        self._opened: set[tuple[str, str]] = set()
        self._ingredients: tuple[str, ...] = ()
        self._directions: tuple[tuple[str, str], ...] = ()

    def see(self, action: str, said: Said) -> None:
        """Read what the game says (``Search``)."""
        self.map.see(action, said["look"])
        self._valid = tuple(said["validActions"])
        self._sights[self.map.here] = said["look"]
        self._held = tuple(line.strip() for line in said["inventory"].splitlines()[1:])
        if action.startswith("open "):
            self._opened.add((self.map.here, action.removeprefix("open ")))
        if "Ingredients:" in said["observation"]:
            self._read(said["observation"])

    def plan(self) -> list[str]:
        """Do the next thing that the recipe asks for (``Search``)."""
        if "eat meal" in self._valid:
            return ["eat meal"]
        if not self._ingredients:
            return ["read cookbook"] if "read cookbook" in self._valid else self.map.explore()
        wanted = [thing for thing in self._ingredients if not self._holds(thing)]
        cuts = [(verb, thing) for verb, thing in self._left() if verb not in _DEVICES]
        wanted += ["knife"] if cuts and not self._holds("knife") else []
        return self._look_for(wanted) if wanted else self._cook(cuts)

    def _read(self, text: str) -> None:
        ingredients, _, directions = text.partition("Directions:")
        self._ingredients = tuple(_indented(ingredients))
        steps = (line.partition(" the ") for line in _indented(directions))
        self._directions = tuple((verb, thing) for verb, the, thing in steps if the)

    def _left(self) -> list[tuple[str, str]]:
        """List the directions that the inventory does not show as done."""
        return [(verb, thing) for verb, thing in self._directions if not self._holds(thing, _DONE_AS[verb])]

    def _holds(self, thing: str, done_as: str = "") -> bool:
        return any(held.endswith(f" {thing}") and done_as in held for held in self._held)

    def _look_for(self, wanted: Iterable[str]) -> list[str]:
        """Take what is in reach; else open the containers here that may hold it; else go on with the search."""
        take = [f"take {thing}" for thing in wanted if f"take {thing}" in self._valid]
        closed = [name for name in self._containers() if (self.map.here, name) not in self._opened]
        return take or [f"open {name}" for name in closed] or self.map.explore()

    def _containers(self) -> list[str]:
        names = sorted(action.removeprefix("open ") for action in self._valid if action.startswith("open "))
        return [name for name in names if not name.startswith("door ") and name not in _UNUSED]

    def _cook(self, cuts: list[tuple[str, str]]) -> list[str]:
        """Cut everything, then use one device after the other, then eat; a plan ends where a device has not been seen yet."""
        if cuts:
            return [f"{verb} {thing}" for verb, thing in cuts]
        for verb, thing in self._left():
            return self._at(f" {_DEVICES[verb]}", [f"cook {thing} in {_DEVICES[verb]}"])
        return self._at("You are in the kitchen.", ["prepare meal", "eat meal"])

    def _at(self, sight: str, actions: list[str]) -> list[str]:
        """Do something in the nearest room of a certain sight; look for one where none is known."""
        way = self.map.way_to(lambda room: sight in self._sights.get(room, ""))
        return self.map.explore() if way is None else [*way, *actions]


def _indented(text: str) -> list[str]:
    """List the indented lines of a text."""
    return [line.strip() for line in text.splitlines() if line.startswith("  ") and line.strip()]


SEARCHES: dict[str, Callable[[], Search]] = {"cookingworld": CookingSearch, "coin": CoinSearch}
"""The experts by the simulator's name of the game."""
