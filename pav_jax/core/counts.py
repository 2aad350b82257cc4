"""Counts in words, for messages and for the page."""


def counted(number: float, noun: str) -> str:
    """A count, to the nearest whole number, with its noun: "1 line", "2,000 lines".

    Args:
      number: how many.
      noun: in the singular; its plural adds an s.
    """
    digits = f"{number:,.0f}"
    return f"{digits} {noun}{'' if digits == '1' else 's'}"
