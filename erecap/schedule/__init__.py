"""Schedules: after which layers tokens are dropped, and how many. Arithmetic on lengths, without tensors or a model."""

from erecap.schedule.counts import forced_stages, layer_tokens, stage_counts
from erecap.schedule.schedule import PruneSchedule
from erecap.schedule.search import BudgetChoice, BudgetError
from erecap.schedule.stages import PruneStage, Rule, parse_rule, parse_stages

__all__ = [
    "BudgetChoice",
    "BudgetError",
    "PruneSchedule",
    "PruneStage",
    "Rule",
    "forced_stages",
    "layer_tokens",
    "parse_rule",
    "parse_stages",
    "stage_counts",
]
