"""How many agents one server can plan for: a model of sessions' memory and time. It runs no planner.

It does not know which tokens a planner would write. Token counts come from the caller: recorded, or assumed.
"""
