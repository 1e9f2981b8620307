"""Which column plays which role."""

from __future__ import annotations

import re
from collections.abc import Sequence

from simcse.errors import DataError, shown

__all__ = ["ID_COLUMNS", "PAIRS", "VECTOR_COLUMNS", "chosen_columns", "reads_like_data", "roles_of"]

# headers whose names say the roles, in whatever order they stand and whatever stands beside them
PAIRS = (("sent0", "sent1"), ("anchor", "positive"))
HARD_NEGATIVE = re.compile(r"(hard_)?neg(ative)?(_?\d+)?")  # hard_neg, negative, negative_1, negative_2, ...
ID_COLUMNS = ("id", "_id")
VECTOR_COLUMNS = ("vector", "embedding", "vectors", "embeddings")  # the first is that of files written here
NOT_TEXT = frozenset({"_id", "gold", "id", "idx", "index", "label", "labels", "score", "similarity"})


def roles_of(count: int) -> list[str]:
    """The roles of so many columns: text; anchor, positive, hard_negative, hard_negative_2, ..."""
    hard = [f"hard_negative_{number}" if number > 1 else "hard_negative" for number in range(1, count - 1)]
    return ["text"] if count == 1 else ["anchor", "positive", *hard]


def reads_like_data(names: Sequence[str]) -> str | None:
    """The first of the fields of a line that is a sentence rather than the name of a column."""
    return next((name for name in names if len(name) > 40 or len(name.split()) > 3), None)


def chosen_columns(where: str, names: list[str]) -> list[str]:
    """The columns to train on among `names`, in the order of their roles.

    Raises:
        DataError: more than three columns of unknown names, or names that are no header but a sentence.
    """
    for pair in PAIRS:
        if set(pair) <= set(names):
            return [*pair, *(name for name in names if HARD_NEGATIVE.fullmatch(name))]
    if sentence := reads_like_data(names):
        captions = ", or say rows=any_two where all columns are texts of one meaning" if len(names) > 1 else ""
        raise DataError(
            f"{where}: {shown(sentence)} reads like data, expected a header such as sent0,sent1,hard_neg; "
            f"add one{captions}"
        )
    if not_text := next((name for name in names if name.lower() in NOT_TEXT), None):
        texts = [name for name in names if name.lower() not in NOT_TEXT]
        such = f", such as columns={','.join(texts[:2])}" if texts else ""
        raise DataError(
            f"{where}: column {not_text!r} among {', '.join(names)} is no text to train on; "
            f"name the columns to use with the option columns{such}"
        )
    if len(names) > 3:
        raise DataError(
            f"{where}: found {len(names)} columns ({', '.join(names)}), expected 1 (text), 2 (anchor, positive) or 3 "
            "(anchor, positive, hard_negative); name those to use, also more hard negatives, with the option columns"
        )
    return names
