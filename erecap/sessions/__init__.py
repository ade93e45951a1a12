"""Sessions: the pruned cache of one agent, kept between its replans."""

from erecap.sessions.saved import SessionMismatchError
from erecap.sessions.session import Extension, ReplanSession

__all__ = ["Extension", "ReplanSession", "SessionMismatchError"]
