"""Backend spec strings: ``name`` or ``name?key=value&key=value``, as on the command line."""

from dataclasses import dataclass
from urllib.parse import parse_qsl


@dataclass(frozen=True)
class BackendSpec:
    """A backend's name and its parameters, all still text."""

    name: str
    params: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> "BackendSpec":
        """Read a spec string. Raises ``ValueError`` for an empty name, a parameter without a value, or one given twice."""
        name, _, query = text.strip().partition("?")
        if not name:
            raise ValueError(f"backend spec {text!r} has no name: write NAME or NAME?key=value, such as erecap?keep=0.7")
        try:
            params = tuple(parse_qsl(query, strict_parsing=True, keep_blank_values=True)) if query else ()
        except ValueError as error:
            raise ValueError(f"backend spec {text!r}: {error}; write parameters as key=value joined by &") from error
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
