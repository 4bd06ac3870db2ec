"""Format numbers and lists for sentences."""

from collections.abc import Sequence


def counted(number: int, noun: str, plural: str = "") -> str:
    """`1 shard`, `2 shards`, `1,000 boxes`.

    Args:
        number: number of things.
        noun: singular noun.
        plural: plural, if it is not the noun with an s.
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def first_of(names: Sequence[object], most: int) -> str:
    """`a, b`, or `a, b and 3 more` where there are more than `most`."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more
