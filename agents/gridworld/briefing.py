"""What the agent is told before it sees anything: the inventory of the house, in the words of the observations."""

from agents.gridworld.belief import Belief
from agents.gridworld.reports import mention

TITLE = "Inventory of the house, some of it out of date:"
"""The first line."""


def briefing(belief: Belief) -> str:
    """Write what a belief holds that was taken from an inventory: one line per room, such as ``hall: red ball in hall.``."""
    places: dict[str, list[str]] = {belief.room_names[room]: [] for room in belief.known_rooms()}
    for thing in belief.things.values():
        places[belief.place_of(thing)].append(mention(belief, thing).text)
    return "\n".join([TITLE, *(f"{room}: {', '.join(names) or 'nothing'}." for room, names in places.items())])
