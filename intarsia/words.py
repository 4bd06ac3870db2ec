"""Format numbers for sentences."""


def counted(number: int, noun: str, plural: str = "") -> str:
    """`1 shard`, `2 shards`, `1,000 boxes`.

    Args:
        number: number of things.
        noun: singular noun.
        plural: plural, if it is not the noun with an s.
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
