"""Backend specs, the text that names a backend on the command line: ``name`` or ``name?key=value&key=value``."""

from dataclasses import dataclass

from planner.redaction import HIDDEN, is_secret_name, redact


@dataclass(frozen=True)
class BackendSpec:
    """A backend by name, with its parameters. As text (``str`` and ``repr``) it hides secrets, such as passwords and keys."""

    name: str
    """Name of the backend, such as ``erecap``."""
    params: tuple[tuple[str, str], ...] = ()
    """Keys and values as text, in order. Nothing is decoded: ``+`` and ``%`` stand for themselves, as paths need it."""

    @classmethod
    def parse(cls, text: str) -> "BackendSpec":
        """Read a spec.

        Parameters
        ----------
        text
            Such as ``erecap?keep=0.7``.

        Returns
        -------
        BackendSpec
            Name and parameters.

        Raises
        ------
        ValueError
            For an empty name, a parameter without a value, and a parameter given twice.
        """
        name, _, query = text.strip().partition("?")
        if not name:
            raise ValueError(f"backend spec {redact(text)!r} has no name: write NAME or NAME?key=value, such as erecap?keep=0.7")
        parts = [part.partition("=") for part in query.split("&")] if query else []
        if not all(key and equals for key, equals, _ in parts):
            raise ValueError(f"backend spec {redact(text)!r}: every parameter must be key=value; join them by &")
        params = tuple((key, value) for key, _, value in parts)
        keys = [key for key, _ in params]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise ValueError(f"backend spec {redact(text)!r} gives {', '.join(twice)} twice: give each parameter once")
        return cls(name, params)

    @property
    def options(self) -> dict[str, str]:
        """The parameters as a dictionary."""
        return dict(self.params)

    def __str__(self) -> str:
        query = "&".join(f"{key}={HIDDEN if is_secret_name(key) else redact(value)}" for key, value in self.params)
        name = redact(self.name)
        return f"{name}?{query}" if query else name

    def __repr__(self) -> str:
        return f"BackendSpec.parse({str(self)!r})"
