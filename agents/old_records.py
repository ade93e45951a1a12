"""Reader of the first form of records, so that old run directories can still be summarized, replayed and continued.

In that form a planner call had the fields of its generation as its own, and a step named its room. Later calls had the rest of the
plan before as it was read, and not yet as it was written.
"""

from typing import Any

_COPIED = (
    "prompt_tokens", "new_tokens", "stage_tokens", "layer_tokens", "reused_tokens", "ttft_s", "first_skill_s", "decode_s",
    "kv_bytes", "peak_memory_bytes", "schedule", "budget_s", "predicted_s", "budget_met",
)  # fmt: skip
"""Fields of the generation that a planner call repeated."""
_DERIVED = ("kept_share", "dropped_tokens", "tpot_s", "parse_errors")
"""Fields that follow from the others."""


def upgraded(fields: dict[str, Any]) -> dict[str, Any]:
    """Convert the fields of one record into today's form; return those of today's form as they are."""
    if fields.get("kind") == "planner_call" and "plan_text" in fields:
        return _planner_call(fields)
    if fields.get("kind") == "step" and "room" in fields:
        return {**{key: value for key, value in fields.items() if key != "room"}, "place": fields["room"]}
    if fields.get("kind") == "planner_call" and fields.get("rest") and "draft" not in fields:
        return {**fields, "draft": "\n".join(fields["rest"])}
    return fields


def _planner_call(fields: dict[str, Any]) -> dict[str, Any]:
    moved = {key: fields[key] for key in _COPIED if key in fields}
    rest = {key: value for key, value in fields.items() if key not in (*_COPIED, *_DERIVED, "plan_text")}
    return {**rest, "generation": {"text": fields["plan_text"], "total_s": fields.get("backend_s", 0.0), **moved}}
