"""Counts in words, for messages and for the page; and rounded up, for shapes."""


def counted(number: float, noun: str) -> str:
    """A count, to the nearest whole number, with its noun: "1 line", "2,000 lines".

    Args:
      number: how many.
      noun: in the singular; its plural adds an s.
    """
    digits = f"{number:,.0f}"
    return f"{digits} {noun}{'' if digits == '1' else 's'}"


def bucket(count: int, multiple: int) -> int:
    """A size that is not below `count`, of few: what is compiled for one serves many.

    Multiples of `multiple` up to eight of them, and then four sizes a doubling.
    """
    while count > 8 * multiple:
        multiple *= 2
    return round_up(count, multiple)


def round_up(count: int, multiple: int) -> int:
    """The least multiple of `multiple` that is not below `count`."""
    return -(-count // multiple) * multiple
