"""One line of a model's answer, cleaned of what models put around a step: numbers, bullets, labels, quotes, emphasis.

What the step means is not known here: it may be a skill (``planner.plan``) or an action of a text world.
"""

import re

_BULLET = re.compile(
    r"""^\s*(?:
      [-*•>+=\u2013—·◦▪●‣→➡➜▶✅✔☑\ufe0f]+      # bullets, arrows, emphasis
    | \#{1,6}\s                             # headings
    | \[[ x✓]?\](?=\s)                      # boxes to tick
    | \(?\d+\s*[.):、\]] | \[\d+\] | [\u2460-\u2473] | \d\ufe0f?\u20e3 | \d+\s+-\s  # numbers
    | step\s+(?:\d+|one|two|three|four|five|six|seven|eight|nine|ten)(?:\s*[:.)-]|\s|$)
    )\s*""",
    re.IGNORECASE | re.VERBOSE,
)
_LETTER = re.compile(r"^\s*(?:\([a-z]\)|[a-z][.)]|\(?[ivx]{1,4}[.)])\s+(?=\S)", re.IGNORECASE)
_LABEL = re.compile(
    r"""^\s*(?:
      (?:(?:the|my|next|final|best|new|revised|updated|action)\s+)*
      (?:plan|answer|actions?|steps?|skills?|output|response|command|solution|assistant|robot)\s?\d{0,3}\s?[*_]*
    | (?:first|second|third|then|next|finally|lastly)\s?[*_]*
    | (?:(?:sure|okay|ok|certainly|of\ course|alright|great)[,.!]*\s+)?
      (?:here(?:['\u2019]s|\ is|\ are)|below\ is|this\ is)\b[^:\uff1a]*
    )[:\uff1a][*_]*\s*""",
    re.IGNORECASE | re.VERBOSE,
)
"""A label, or a sentence that introduces the plan, up to its colon."""
_FENCE = re.compile(r"^\s*(?:```|~~~)\s*[\w+-]*\s*$")
_QUOTES = re.compile("[\"`\u201c\u201d]|(?<!\\w)['\u2018]|['\u2019](?!\\w)")
_ARTICLE = re.compile(r"\b(?:the|a|an)\s+", re.IGNORECASE)
_AROUND = " \"'`*.,;!\u2026\u3002\u2018\u2019\u201c\u201d"
"""Straight and curly quotes, marks of emphasis, and closing punctuation."""
_PAIRS = (('"', '"'), ("'", "'"), ("\u201c", "\u201d"), ("\u2018", "\u2019"))
"""Opening and closing quotes that may stand around a whole line."""
_MOST_MARKERS = 20
"""Rounds of markers in front of a step, more than any model writes."""
_SAME = str.maketrans("\uff1a\uff08\uff09\uff0e\uff0c\uff1b\uff01", ":().,;!", "\u200b\u200c\u200d\u2060\ufeff")
"""Wide punctuation as its narrow form, and characters without width left out."""


def is_fence(line: str) -> bool:
    """Tell whether a line opens or closes a block of code."""
    return bool(_FENCE.match(line))


def is_label(line: str) -> bool:
    """Tell whether a line begins with a label such as ``Action:``, behind any numbers and bullets."""
    return bool(_LABEL.match(_BULLET.sub("", line)))


def plan_line(line: str) -> str:
    """Clean one line of an answer: lower case, nothing around it, no quotes, parentheses or fences; maybe empty."""
    return " ".join(bare_line(line).replace("(", " ").replace(")", " ").split()).strip(_AROUND)


def bare_line(line: str) -> str:
    """Clean one line of an answer as ``plan_line`` does, but keep parentheses."""
    if is_fence(line):
        return ""
    line = _unlettered(line.translate(_SAME))
    line = _unlettered(_QUOTES.sub(" ", line).strip())
    return " ".join(line.lower().split()).strip(_AROUND)


def spelled_line(line: str) -> str:
    """Clean one line of an answer but keep its spelling: only what stands around it goes; maybe empty."""
    if is_fence(line):
        return ""
    line = _unnumbered(line).strip(" \t*`").rstrip(".,;")
    quoted = len(line) > 1 and (line[0], line[-1]) in _PAIRS and line[0] not in line[1:-1]
    return line[1:-1].strip() if quoted else line


def subgoal_number(line: str) -> str:
    """Return the number of the subgoal in front of a line, with its full stop and space; empty for a line without one."""
    number, stop, _ = line.partition(". ")
    return f"{number}. " if stop and number.isdigit() else ""


def without_articles(text: str) -> str:
    """Leave out the words "the", "a" and "an"."""
    return " ".join(_ARTICLE.sub("", text).split())


def _unnumbered(line: str) -> str:
    """Return the line without the numbers, bullets and labels in front, however many."""
    return _without(line, _BULLET, _LABEL)


def _unlettered(line: str) -> str:
    """Do as ``_unnumbered`` and leave out letters such as ``a)``, which are commands of their own in some text worlds."""
    return _without(line, _BULLET, _LABEL, _LETTER)


def _without(line: str, *patterns: re.Pattern[str]) -> str:
    for _ in range(_MOST_MARKERS):
        shorter = line
        for pattern in patterns:
            shorter = pattern.sub("", shorter)
        if shorter == line:
            return line
        line = shorter
    return line
