"""Numbers in sentences."""


def counted(number: int, noun: str, plural: str = "") -> str:
    """`1 shard`, `2 shards`, `1,000 boxes`.

    Args:
        number: of the things.
        noun: of one of them.
        plural: where it is not the noun with an s.
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
