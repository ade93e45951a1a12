"""The household: rooms, doors, boxes, subgoals and disturbances on minigrid's grid."""

from envs.household.env import HouseholdEnv

__all__ = ["HouseholdEnv"]
