"""Backend spec strings: ``name`` or ``name?key=value&key=value``, as on the command line."""

from dataclasses import dataclass


@dataclass(frozen=True)
class BackendSpec:
    """A backend's name and its parameters, all still text and taken as they stand (paths may hold ``+`` and ``%``)."""

    name: str
    params: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> "BackendSpec":
        """Read a spec string. Raises ``ValueError`` for an empty name, a parameter without a value, or one given twice."""
        name, _, query = text.strip().partition("?")
        if not name:
            raise ValueError(f"backend spec {text!r} has no name: write NAME or NAME?key=value, such as erecap?keep=0.7")
        parts = [part.partition("=") for part in query.split("&")] if query else []
        if not all(key and equals for key, equals, _ in parts):
            raise ValueError(f"backend spec {text!r}: every parameter of {query!r} must be key=value; join them by &")
        params = tuple((key, value) for key, _, value in parts)
        keys = [key for key, _ in params]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise ValueError(f"backend spec {text!r} gives {', '.join(twice)} twice: give each parameter once")
        return cls(name, params)

    @property
    def options(self) -> dict[str, str]:
        """The parameters as a dictionary."""
        return dict(self.params)

    def __str__(self) -> str:
        query = "&".join(f"{key}={value}" for key, value in self.params)
        return f"{self.name}?{query}" if query else self.name
