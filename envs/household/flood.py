"""Flood fill: everything that is connected with a start."""

from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

Node = TypeVar("Node", bound=Hashable)


def flood(start: Node, near: Callable[[Node], Iterable[Node]]) -> set[Node]:
    """Collect ``start`` and every node that leads from it over ``near``, which returns the neighbours of a node."""
    found, stack = {start}, [start]
    while stack:
        fresh = [node for node in near(stack.pop()) if node not in found]
        found.update(fresh)
        stack.extend(fresh)
    return found
