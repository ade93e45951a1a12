"""How much of one sequence stands in another: edit distance and longest common subsequence. It knows no plans."""

from collections import defaultdict
from collections.abc import Hashable, Sequence


def edit_distance(old: Sequence[Hashable], new: Sequence[Hashable]) -> int:
    """Count the insertions, deletions and replacements that turn ``old`` into ``new``, at the fewest (Levenshtein 1966).

    Parameters
    ----------
    old, new : sequence
        The two sequences, compared item by item.

    Returns
    -------
    int
        From 0, for equal sequences, to the length of the longer one. Computed row by row (Wagner and Fischer 1974).
    """
    row = list(range(len(new) + 1))
    for done, item in enumerate(old, 1):
        above, row = row, [done]
        for column, other in enumerate(new, 1):
            row.append(min(above[column] + 1, row[-1] + 1, above[column - 1] + (item != other)))
    return row[-1]


def common_length(old: Sequence[Hashable], new: Sequence[Hashable]) -> int:
    """Return the length of the longest common subsequence: items of both, in the same order, gaps allowed.

    One integer holds a row of the table, a bit per item of ``old`` (Hyyrö 2004), so that answers of hundreds of words take no time.
    """
    places: dict[Hashable, int] = defaultdict(int)
    for index, item in enumerate(old):
        places[item] |= 1 << index
    row = ones = (1 << len(old)) - 1
    for item in new:
        matched = row & places[item]
        row = ((row + matched) | (row - matched)) & ones
    return len(old) - row.bit_count()


def reused_share(old: Sequence[Hashable], new: Sequence[Hashable]) -> float:
    """Return the share of ``new``, which must not be empty, that stands in ``old`` in the same order, 0 to 1."""
    return common_length(old, new) / len(new)
