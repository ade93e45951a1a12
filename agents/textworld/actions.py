"""The actions that a text world takes now, and which of them a line of a plan means."""

from collections.abc import Iterable

from planner.lines import plan_line, without_articles


class ActionList:
    """The actions that a world lists, in its own spelling. Empty where it lists none.

    Parameters
    ----------
    actions
        The actions, word for word, in the order in which the planner reads them.
    """

    def __init__(self, actions: Iterable[str] = ()) -> None:
        self.actions = tuple(actions)
        self._cleaned: dict[str, str] = {}
        self._bare: dict[str, list[str]] = {}
        for action in self.actions:
            key = plan_line(action)
            if key:
                self._cleaned.setdefault(key, action)
                self._bare.setdefault(without_articles(key), []).append(action)

    def __bool__(self) -> bool:
        return bool(self.actions)

    def find(self, line: str) -> str | None:
        """Return the action that a line means, in the world's spelling.

        Parameters
        ----------
        line
            A line of a plan, as the planner wrote it or as ``planner.lines.plan_line`` cleaned it.

        Returns
        -------
        str or None
            The action of exactly this spelling; else the first one that differs only in what ``plan_line`` ignores; else the only
            one that differs in articles as well. ``None`` where there is no such action.
        """
        if line.strip() in self.actions:
            return line.strip()
        key = plan_line(line)
        if not key or key in self._cleaned:
            return self._cleaned.get(key)
        similar = self._bare.get(without_articles(key), [])
        return similar[0] if len(similar) == 1 else None

    @property
    def sentence(self) -> str:
        """The actions in one line of an observation, separated by commas, or by semicolons where an action has a comma in it."""
        separator = "; " if any("," in action for action in self.actions) else ", "
        return f"Valid actions: {separator.join(self.actions)}."
