"""The steps of a model's answer: its lines without what is no part of the plan.

Models reason before they answer, wrap plans in tags, code or JSON, introduce them with a sentence, and run on after the end of
their turn. The forms are those of the chat formats and reasoning models of Qwen, Llama, Mistral, DeepSeek, Gemma and GPT. A line
that is none of these stays, so that whoever reads the steps refuses what is no step.
"""

import json
import re
from collections.abc import Callable
from typing import Any

from planner.lines import is_fence, is_label, plan_line

Step = tuple[int, str]
"""Number of the line in the answer, from 1, and the line (or the part of it that is one step)."""

_FINAL = re.compile(r"^.*<\|channel\|>\s*final\b[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>", re.DOTALL)
"""All before the final channel of the format of gpt-oss."""
_START = re.compile(
    r"\s*(?:<\|im_start\|>(?:\s*assistant\b)?|<\|start_header_id\|>\s*\w*\s*<\|end_header_id\|>|<start_of_turn>(?:\s*model\b)?"
    r"|<\|(?:begin_of_text|start|assistant)\|>(?:\s*assistant\b)?|<s>|<bos>|<\uff5cAssistant\uff5c>|<\uff5cbegin\u2581of\u2581sentence\uff5c>)"
)
_END = re.compile(
    r"<\|(?:im_end|im_start|endoftext|eot_id|eom_id|end|end_of_text|end_of_turn|return|call|start_header_id|start|user|eot|sep)\|>"
    r"|</s>|<end_of_turn>|<start_of_turn>|<eos>|<\uff5cend\u2581of\u2581sentence\uff5c>|<\uff5cUser\uff5c>|\[/?INST\]|\[EOS\]",
    re.IGNORECASE,
)
_END_FIRST = re.compile(rf"\s*(?:{_END.pattern})", re.IGNORECASE)
_REASONS = r"think(?:ing)?|thoughts?|reasoning|reflection|scratchpad|analysis"
_THOUGHT = re.compile(rf"<(?P<end>/?)(?:{_REASONS})>|\[(?P<end2>/?)THINK\]|◁(?P<end3>/?)think▷", re.IGNORECASE)
_BOXED = re.compile(r"\$?\$?\\boxed\s*\{(?:\\text\s*\{)?([^{}]*)\}{1,3}\$?\$?")
_BLOCK_TAG = re.compile(
    r"</?(?:plan|answer|actions?|steps?|output|response|skills?|final(?:_answer)?|result|solution|li|ol|ul|p|pre|br)\s*/?>",
    re.IGNORECASE,
)
_INLINE_TAG = re.compile(r"</?(?:b|i|u|em|strong|code)>", re.IGNORECASE)
_REMARK = re.compile(
    r"^\W{0,20}(?:thoughts?|thinking|reason(?:ing)?|rationale|explanation|notes?|analysis|comments?)\s?\d{0,3}\W{0,6}[:\uff1a]",
    re.IGNORECASE,
)
_NEXT_TURN = re.compile(r"^\W{0,20}(?:observations?\s?\d{0,3}|user|human|system|environment)\W{0,6}[:\uff1a]", re.IGNORECASE)
_PLAN_WORD = re.compile(
    r"\b(?:plan|steps?|actions?|skills?|answer|sequence|solution|follow(?:s|ing)|response|output|here)\b", re.IGNORECASE
)
_HEADING = re.compile(
    r"(?:(?:the|my|next|final|best|new|revised|updated|action)\s+)*(?:plan|answer|actions?|steps?|skills?|output|response|solution)"
)
_CONSENT = re.compile(r"sure(?: thing)?|okay|ok|certainly|of course|alright|great|got it|understood|absolutely|yes")
_PLAN_KEY = re.compile(r"(?:final_?)?(?:plan|actions?|steps?|skills?|answer|output|response)", re.IGNORECASE)
_JSON = ("[", "{")
"""What an answer in JSON begins with."""
_MOST_SHOWN = 160
"""Characters of a line that an error shows: the planner reads it."""


def shortened(text: str, most: int = _MOST_SHOWN) -> str:
    """Return a text, cut where it is long."""
    return text if len(text) <= most else f"{text[:most]}..."


class PlanParseError(ValueError):
    """An error for a plan that cannot be read.

    Parameters
    ----------
    line
        Number of the line, from 1.
    text
        The line.
    reason
        Why it cannot be read.
    remedy
        How to write a plan instead.
    """

    def __init__(self, line: int, text: str, reason: str, remedy: str = "write one skill per line, such as 'goto kitchen'") -> None:
        self.line, self.text, self.reason = line, text, shortened(reason, 2 * _MOST_SHOWN)
        super().__init__(f"line {line} {shortened(text)!r}: {self.reason}; {remedy}")


def answer_steps(answer: str, is_step: Callable[[str], bool]) -> list[Step]:
    """List the steps of an answer.

    Left out are: reasoning (``<think>``), markers of the beginning of a turn, those of its end with all behind them, tags and
    fences around the plan, headings, sentences that introduce the plan, and lines with labels such as ``Thought:``. Where the
    answer has one block of code and no step outside, the block is the plan. JSON with a list of texts is read as its texts.

    Parameters
    ----------
    answer
        The answer, as the model wrote it.
    is_step
        Whether a line looks like a step. Such a line is never left out.

    Returns
    -------
    list of Step
        Numbers and lines, in order; maybe none.

    Raises
    ------
    PlanParseError
        For an answer that ends within its reasoning.
    """
    lines = _fenced(list(enumerate(_spoken(answer).splitlines(), 1)), is_step)
    listed = _json_steps(lines)
    if listed is not None:
        return listed
    return _without_remarks([(number, part) for number, line in lines for part in _parts(line)], is_step)


def first_step(so_far: str, is_step: Callable[[str], bool]) -> str | None:
    """Return the first step of an answer that is not complete yet, once it is certain.

    It is certain when the complete lines so far have one step that looks like one. Whatever comes after them, it stays the first
    step, with two exceptions: the end of reasoning whose beginning is missing, and a marker of the final channel. Both take back
    all that stands before them. JSON is read at its end. A line becomes certain when it is the last one, or never.

    Parameters
    ----------
    so_far
        The complete lines of the answer so far.
    is_step
        Whether a line looks like a step.
    """
    lines = [line for line in so_far.splitlines() if line.strip() and not is_fence(line)]
    if not lines or lines[0].lstrip().startswith(_JSON) or not any(map(is_step, _parts(lines[-1]))):
        return None
    try:
        steps = answer_steps(so_far, is_step)
    except PlanParseError:
        return None
    return steps[0][1] if len(steps) == 1 and is_step(steps[0][1]) else None


def _spoken(answer: str) -> str:
    """Return what the model answered in its turn, without its reasoning. Lines keep their numbers."""
    text = _FINAL.sub(_line_breaks, answer)
    while start := _START.match(text) or _END_FIRST.match(text):
        text = _line_breaks(start) + text[start.end() :]
    end = _END.search(text)
    text = text if end is None else text[: end.start()]
    spoken = _without_reasoning(text)
    if spoken is None:
        remedy = "answer with the plan alone, one step per line"
        raise PlanParseError(1, answer[:80], "the answer ends within its reasoning", remedy)
    return _BOXED.sub(r"\1", spoken)


def _without_reasoning(text: str) -> str | None:
    """Leave out reasoning; ``None`` where its end is missing. Where its beginning is missing, all before its end is reasoning."""
    kept: list[str] = []
    after, opened = 0, None
    for tag in _THOUGHT.finditer(text):
        if not (tag["end"] or tag["end2"] or tag["end3"]):
            opened = tag.start() if opened is None else opened
            continue
        begin = after if opened is None else opened
        kept += [text[after:begin], _breaks(text[begin : tag.end()])]
        after, opened = tag.end(), None
    return None if opened is not None else "".join([*kept, text[after:]])


def _line_breaks(found: re.Match[str]) -> str:
    """Return as many line breaks as were found."""
    return _breaks(found[0])


def _breaks(text: str) -> str:
    return "\n" * (len(f"{text}.".splitlines()) - 1)


def _fenced(lines: list[Step], is_step: Callable[[str], bool]) -> list[Step]:
    """Return the only block of code where there is one with text in it, and no step outside; else all lines."""
    fences = [at for at, (_, line) in enumerate(lines) if is_fence(line)]
    if len(fences) != 2:
        return lines
    inside, outside = lines[fences[0] + 1 : fences[1]], lines[: fences[0]] + lines[fences[1] + 1 :]
    return lines if any(is_step(line) for _, line in outside) or not any(line.strip() for _, line in inside) else inside


def _parts(line: str) -> list[str]:
    """Split a line at tags such as ``<step>``."""
    return [part for part in _BLOCK_TAG.split(_INLINE_TAG.sub("", line)) if plan_line(part) and any(map(str.isalnum, part))]


def _without_remarks(steps: list[Step], is_step: Callable[[str], bool]) -> list[Step]:
    """Leave out headings, introductions and remarks; end where the next turn of the conversation begins."""
    last_label = max((at for at, (_, line) in enumerate(steps) if is_label(line)), default=-1)
    kept: list[Step] = []
    within_remark = False
    for at, (number, line) in enumerate(steps):
        if _NEXT_TURN.match(line):
            if kept:
                break
            within_remark = True
        elif is_step(line) or is_label(line):
            within_remark = False
            kept.append((number, line))
        elif _REMARK.match(line):
            within_remark = True
        elif not (within_remark and at < last_label) and not _is_introduction(line, not kept):
            kept.append((number, line))
    return [step for step in kept if plan_line(step[1])]


def _is_introduction(line: str, first: bool) -> bool:
    """Tell whether a line that is no step is a heading (``## Plan``) or introduces the plan (``Here is the plan:``).

    Before the first step, any line with a colon at its end introduces it, and a word such as ``Sure!`` may stand alone.
    """
    announces = line.rstrip(" \t*_").endswith((":", "\uff1a")) and (first or _PLAN_WORD.search(line) is not None)
    words = plan_line(line)
    return announces or _HEADING.fullmatch(words) is not None or (first and _CONSENT.fullmatch(words) is not None)


def _json_steps(lines: list[Step]) -> list[Step] | None:
    """Return the texts of an answer in JSON, all with the number of its first line; ``None`` for any other answer."""
    lines = [(number, line) for number, line in lines if line.strip() and not is_fence(line)]
    body = "\n".join(line for _, line in lines).strip()
    if not body.startswith(_JSON):
        return None
    try:
        texts = _texts_of(json.loads(body))
    except (ValueError, RecursionError):
        return None
    return None if texts is None else [(lines[0][0], line) for line in texts if line.strip()]


def _texts_of(value: Any) -> list[str] | None:
    """Return the plan in a JSON value: a list of texts, one text, or an object with one of these under a key such as ``plan``."""
    if isinstance(value, str):
        return value.splitlines()
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return [str(item) for item in value]
    if isinstance(value, dict):
        plans = [item for key, item in value.items() if _PLAN_KEY.fullmatch(key)]
        return _texts_of(plans[0]) if len(plans) == 1 and not isinstance(plans[0], dict) else None
    return None
