"""Who makes the backends of a command: this process alone, or rank 0 of a launch together with the others."""

from collections.abc import Iterator
from contextlib import contextmanager

from agents.runner import MakeBackend
from benchmarks.backends.registry import BackendFactory

_leaders: list[MakeBackend] = []


def backend_maker(threads: int | None = None) -> MakeBackend:
    """Return the maker of backends.

    Parameters
    ----------
    threads : int, optional
        CPU threads that a model of the engine may use; ``None`` leaves the choice to torch, as ranks always do.

    Returns
    -------
    MakeBackend
        Makes a backend from its spec string. It can be pickled unless this process leads ranks.
    """
    return _leaders[-1] if _leaders else BackendFactory(threads)


@contextmanager
def made_by(leader: MakeBackend) -> Iterator[None]:
    """Let ``leader`` make all backends while the context is open."""
    _leaders.append(leader)
    try:
        yield
    finally:
        _leaders.remove(leader)
