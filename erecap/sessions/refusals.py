"""The schedules and selectors that a session cannot follow."""

from transformers import PreTrainedModel

from erecap.engine.selector_protocol import Selector, check_selector, check_tokenwise
from erecap.schedule import PruneSchedule


def check_session(schedule: PruneSchedule, selector: Selector | None, model: PreTrainedModel) -> None:
    """Raise ``ValueError`` for a schedule or a selector whose verdicts would change when the prompt grows."""
    schedule.check_depth(model.config.num_hidden_layers)
    if not schedule.stages:
        return
    if schedule.rule == "top_k":
        raise ValueError(
            "rule 'top_k' judges a token by the whole prompt, and a session keeps verdicts while the prompt grows: use "
            "rule=chunk_top_k or rule=threshold, as schedule.by_rule sets them"
        )
    if schedule.tail_share:
        raise ValueError(
            f"tail_share={schedule.tail_share} guards a tail that grows with the prompt, and a session keeps verdicts meanwhile: "
            "use tail_share=0, as schedule.by_rule sets it"
        )
    if selector is None:
        raise ValueError(f"a schedule of {len(schedule.stages)} stages needs a selector to score tokens: pass one")
    check_selector(selector, schedule)
    check_tokenwise(selector)
