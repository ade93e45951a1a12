"""Flood fill: everything that is connected with a start."""

from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

Node = TypeVar("Node", bound=Hashable)


def flood(start: Node, near: Callable[[Node], Iterable[Node]]) -> set[Node]:
    """``start`` and all that ``near`` leads to from it, step by step."""
    found, stack = {start}, [start]
    while stack:
        fresh = [node for node in near(stack.pop()) if node not in found]
        found.update(fresh)
        stack.extend(fresh)
    return found
