"""Where tokens are dropped and how many. Host arithmetic on lengths: no tensor, model or device."""

from erecap.schedule.schedule import PruneSchedule, PruneStage

__all__ = ["PruneSchedule", "PruneStage"]
