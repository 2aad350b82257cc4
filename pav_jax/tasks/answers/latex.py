r"""Reads the spelling of an answer: LaTeX or plain text becomes nested items.

What is the same however it is spelt becomes the same here: `\dfrac` and `\frac`, `≤`
and `\leq`, `\text{and}` and `and`. White space ends a word or a number, and is never
removed before reading: `1 2` is two numbers. What is decided here:

- `1,000`, `1{,}000`, `1,\!000` and `1\,000` are one number; `1 000` is two. A plain
  comma separates in brackets, and where any comma is followed by a space: `(1,000)`.
- Letters in a row are a product (`xy`), unless they are capitals (`AB`), or look like a
  word where a word can stand: alone (`east`), after a number (`12 ways`), after a word.
- Fonts say nothing (`\mathbf{a}` is `a`), but `\mathbb{R}` is a symbol of its own.
"""

import re
from collections.abc import Container, Sequence
from typing import NamedTuple

from pav_jax.tasks.answers import latex_names, units

# More brackets within each other than this are not an answer.
MAX_DEPTH = 30


class Unreadable(ValueError):
    """A text that is not an answer in a spelling that is known here."""


class Token(NamedTuple):
    """The smallest part of an answer.

    Attributes:
      kind: "number", "letter" (a single one), "name" (capitals in a row), "word",
        "unit" (a sign such as % and $), "command" or "sign".
      text: as it is spelt; a number without separators, a command with its backslash.
      spaced: whether white space stands before it.
      upright: whether it stands in a `\\text{...}`.
    """

    kind: str
    text: str
    spaced: bool = False
    upright: bool = False


class Group(NamedTuple):
    """Items between brackets.

    Attributes:
      open: "(", "[", "{", "\\\\{", "\\\\lfloor", ..., or the name of an environment.
      close: the closing bracket, which may be of another kind: `[0,1)`.
      items: what stands between.
      spaced: whether white space stands before it.
    """

    open: str
    close: str
    items: tuple
    spaced: bool = False


Item = Token | Group

# Words between the parts of a list.
CONNECTORS = {"and", "or"}

_SEPARATOR = r"\s*\{\s*,\s*\}\s*|,\s*\\!\s*|\\,"
_DIGITS = r"(?:[0-9]{{1,3}}(?:(?:{})[0-9]{{3}})+(?![0-9]|,[0-9]|\s*/)|[0-9]+)"
_NUMBER = _DIGITS + r"(?:\.[0-9]*)?|\.[0-9]+"
_TEXTS = "text|mbox|hbox|textbf|textit|textrm|textnormal|textsf|texttt|textup|emph"
_FONTS = (
    "mathrm|mathbf|mathit|mathsf|mathtt|mathcal|mathfrak|boldsymbol|bm|operatorname"
    "|mathbb|Bbb"
)


def _grammar(separators: str) -> re.Pattern:
    return re.compile(
        r"(?P<space>(?:\s|~|\\[ ,;:>]|\\q?quad|\\(?:enspace|thinspace)(?![a-z]))+)"
        r"|(?P<row>\\\\(?:\s*\[\s*[\d.]+(?:pt|em|ex|mm|cm)\s*\])?)"
        r"|(?P<skip>\\!|\$|\\[()\[\]]|\\(?:left|right)\.|\\(?:left|right|middle"
        r"|[bB]igg?[lrm]?|(?:display|text|script)style|limits|rm|bf|it|sf|tt)"
        r"(?![A-Za-z]))"
        r"|(?P<repeating>[0-9]*\.[0-9]*\\(?:overline|bar|dot)\s*(?:\{\s*[0-9]+\s*\}|[0-9])"
        r"|[0-9]+\.\([0-9]+\))"
        rf"|(?P<number>{_NUMBER.format(separators)})"
        r"|(?P<letters>[A-Za-z]+)"
        rf"|(?P<text>\\(?:{_TEXTS})(?![A-Za-z])\s*(?=\{{))"
        rf"|(?P<font>\\(?:{_FONTS})(?![A-Za-z])\s*(?=\{{))"
        r"|(?P<box>\\(?:boxed|fbox)\s*(?=\{))"
        r"|(?P<environment>\\(?:begin|end)\s*\{[A-Za-z]+\*?\})"
        r"|(?P<degree>\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))|\\degree(?![a-z])|°)"
        r"|(?P<command>\\[A-Za-z]+|\\.)"
        r"|(?P<sign><=|>=|!=|\*\*|.)",
        re.S,
    )


# With commas between thousands, and without.
_GRAMMARS = {True: _grammar(_SEPARATOR + "|,"), False: _grammar(_SEPARATOR)}
_LIST = re.compile(r",(?!\s*\\!)(?:\s|~|\\[ ,;:]|\\q?quad|\\text)")
_PROSE = re.compile(r"[A-Za-z][A-Za-z\s,'.-]*")
_ESCAPED = re.compile(r"\\\\(?=[A-Za-z])")
_SQUARE = re.compile(r"(?<![A-Za-z])(sq|cu)\. ?")
_HALF_DAY = re.compile(r"(?<![A-Za-z])([apAP])\.\s?([mM])\.?(?![A-Za-z])")
_COLUMNS = re.compile(r"(?:\s*\{[lcr|\s]*\})?")


def read_items(text: str) -> tuple[Item, ...]:
    """The items of an answer.

    Args:
      text: untrusted text of bounded length.

    Raises:
      Unreadable: the brackets do not match, or some character is not known.
    """
    text = _HALF_DAY.sub(r"\1\2", text)
    text = _SQUARE.sub(r"\1 ", text)
    if r"\begin" not in text:  # where \\ begins a row
        text = _ESCAPED.sub(r"\\", text)
    prose = _PROSE.fullmatch(text) is not None and any(
        _is_word(run, 3) for run in re.findall("[A-Za-z]+", text)
    )
    tokens: list[Token] = []
    _tokenise(text, tokens, "text" if prose else "math", 0)
    items, rest = _nest(tokens, 0, None, 0)
    assert rest == len(tokens)
    return items


def _tokenise(text: str, tokens: list[Token], mode: str, depth: int) -> None:
    """Appends the tokens of `text`; `mode` is "math", "text" or "font"."""
    if depth > MAX_DEPTH:
        raise Unreadable("too deep")
    thousands = mode == "text" or not _LIST.search(text)
    brackets = position = 0
    spaced = False
    while position < len(text):
        match = _GRAMMARS[thousands and not brackets].match(text, position)
        kind, piece, position = match.lastgroup, match[0], match.end()
        if kind == "space":
            spaced = True
            continue
        if kind == "skip":
            continue
        if kind in ("text", "font", "box"):
            end = _closing(text, position)
            inner, position = text[position + 1 : end], end + 1
            _enter(kind, piece, inner, spaced, tokens, mode, depth)
        elif kind == "letters":
            tokens.extend(_letters(piece, spaced, mode, tokens))
        else:
            token = _token(kind, piece, spaced)
            brackets += token.text in ("(", "[", r"\{")
            brackets -= token.text in (")", "]", r"\}")
            if piece in latex_names.SUPERSCRIPTS:
                tokens.append(Token("sign", "^"))
            elif token.text == r"\begin{array}":
                position = _COLUMNS.match(text, position).end()
            tokens.append(token)
        spaced = False


def _enter(kind, command, inner, spaced, tokens, mode, depth) -> None:
    r"""Appends what stands in a `\text{...}`, a font or a box."""
    first = len(tokens)
    if kind == "font" and command.strip() in (r"\mathbb", r"\Bbb"):
        name = inner.strip()
        same = r"\R" if name == "R" else rf"\mathbb{{{name}}}"
        tokens.append(Token("command", same, spaced))
        return
    if r"\mathrm" in command and (spaced or "/" in inner) and units.are_units(inner):
        kind = "text"
    _tokenise(inner, tokens, mode if kind == "box" else kind, depth + 1)
    if len(tokens) > first:
        spaced = spaced or (kind == "text" and inner[0].isspace())
        tokens[first] = tokens[first]._replace(spaced=spaced)


def _closing(text: str, position: int) -> int:
    """Where the brace that opens at `position` is closed."""
    depth = 0
    for match in re.compile(r"\\.|[{}]", re.S).finditer(text, position):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if not depth:
            return match.start()
    raise Unreadable("a brace is not closed")


def _token(kind: str, piece: str, spaced: bool) -> Token:
    if kind == "number":
        digits = re.sub(r"[^0-9.]", "", piece)
        return Token("number", digits.removesuffix("."), spaced)
    if kind == "repeating":
        digits = re.sub(r"\\[a-z]+\s*\{?|\(", "(", piece)
        return Token("number", re.sub(r"[^0-9.(]", "", digits), spaced)
    if kind == "degree":
        return Token("command", r"\degree", spaced)
    if kind == "environment":
        return Token("sign", re.sub(r"\s", "", piece), spaced)
    if kind == "row":
        return Token("sign", r"\\", spaced)
    if piece in latex_names.SUPERSCRIPTS:
        return Token("number", latex_names.SUPERSCRIPTS[piece], spaced)
    if piece in latex_names.UNITS:
        return Token("unit", latex_names.UNITS[piece], spaced)
    if piece in latex_names.WORDS:
        return Token("word", latex_names.WORDS[piece], spaced)
    same = latex_names.SAME.get(piece, piece)
    if same[0] == "\\" and same[1:].isalpha():
        return Token("command", same, spaced)
    if not same.isascii() or not same.isprintable():
        raise Unreadable(f"character {same!r}")
    return Token("sign", same, spaced)


def _is_word(run: str, shortest: int) -> bool:
    """Whether letters in a row look like a word and not like a product."""
    if len(run) > 1 and not (run[1:].islower() or run.isupper()):
        return False
    run = run.lower()
    return (
        len(run) >= shortest
        and bool(set(run) & set("aeiou"))
        and not re.search("xy|yz", run)
        and run not in "abcdefghijklmnopqrstuvwxyz"
    )


def _letters(run: str, spaced: bool, mode: str, before: list[Token]) -> list[Token]:
    """Letters in a row as a word, a name, a command, or one letter each."""
    last = before[-1] if before else None
    if mode != "math":
        upright = mode == "text"
        if len(run) == 1:
            return [Token("letter", run, spaced, upright)]
        if run in latex_names.PLAIN and not upright:
            return [Token("command", "\\" + run, spaced)]
        if not (upright or run.isupper() or units.is_unit(run) or _is_word(run, 3)):
            return _product(run, spaced)
        kind = "name" if run.isupper() else "word"
        return [Token(kind, run, spaced, upright)]
    if run in latex_names.PLAIN:
        return [Token("command", "\\" + run, spaced)]
    if run == "in" and last is not None and last.kind == "letter":
        return [Token("command", r"\in", spaced)]
    if run in ("infinity", "inf", "oo"):
        return [Token("command", r"\infty", spaced)]
    if len(run) > 1 and run.isupper():
        return [Token("name", run, spaced)]
    if run.lower() in CONNECTORS or _stands_as_word(run, spaced, last):
        return [Token("word", run, spaced)]
    return _product(run, spaced)


def _product(run: str, spaced: bool) -> list[Token]:
    return [
        Token("letter", letter, spaced and not index)
        for index, letter in enumerate(run)
    ]


def _stands_as_word(run: str, spaced: bool, last: Token | None) -> bool:
    """Whether letters in a row are a word where they stand; not in a `\\text{...}`."""
    if len(run) < 2:
        return False
    if last is None:
        return _is_word(run, 3)
    if last.kind == "word":
        return (spaced and last.text.lower() not in CONNECTORS) or _is_word(run, 3)
    operand = last.kind in ("number", "unit", "letter", "name") or last.text in (
        *(")", "]", "}", "!", r"\pi", r"\degree"),
    )
    if not operand:
        return last.text in (",", "=") and _is_word(run, 4)
    if spaced:
        return run in ("of", "per") or units.is_unit(run) or _is_word(run, 3)
    return last.kind == "number" and (
        _is_word(run, 5)
        or (units.is_unit(run) and run not in ("in", "am", "pm", "mi", "oz"))
    )


_CLOSERS = {
    "(": (")", "]"),
    "[": ("]", ")"),
    r"\{": (r"\}",),
    "{": ("}",),
    r"\lfloor": (r"\rfloor",),
    r"\lceil": (r"\rceil",),
    r"\langle": (r"\rangle",),
}
_CLOSING = {closer for closers in _CLOSERS.values() for closer in closers}


def _nest(
    tokens: list[Token], position: int, opened: Token | None, depth: int
) -> tuple[tuple[Item, ...], int]:
    """The items up to the bracket that closes `opened`, and the position after it."""
    if depth > MAX_DEPTH:
        raise Unreadable("too deep")
    closers: tuple[str, ...] = ()
    if opened is not None:
        closers = _CLOSERS.get(opened.text) or (opened.text.replace("begin", "end"),)
    items: list[Item] = []
    while position < len(tokens):
        token = tokens[position]
        position += 1
        if token.text in closers:
            close = token.text
            return (Group(opened.text, close, tuple(items), opened.spaced),), position
        if token.text in _CLOSERS or token.text.startswith(r"\begin{"):
            group, position = _nest(tokens, position, token, depth + 1)
            items += group
        elif token.text in _CLOSING or token.text.startswith(r"\end{"):
            raise Unreadable(f"{token.text} closes nothing")
        else:
            items.append(token)
    if opened is not None:
        raise Unreadable(f"{opened.text} is not closed")
    return tuple(items), position


def spell(items: Sequence[Item]) -> str:
    """Items as one text, in which white space between words is all that is left."""
    pieces: list[str] = []
    for item in items:
        if isinstance(item, Group):
            pieces.append(f"{item.open}{spell(item.items)}{item.close}")
            continue
        apart = item.kind in ("word", "name") or (item.kind == "number" and item.spaced)
        pieces.append(" " + item.text if apart and pieces else item.text)
    return "".join(pieces)


def is_token(item: Item, *texts: str) -> bool:
    """Whether an item is one of these signs, commands or letters."""
    return isinstance(item, Token) and item.kind != "word" and item.text in texts


def kind_of(item: Item) -> str:
    """A token's kind, or "group"."""
    return item.kind if isinstance(item, Token) else "group"


def cut(
    items: Sequence[Item], signs: Container[str]
) -> tuple[list[list[Item]], list[str]]:
    """The parts between any of these signs, and which signs there are."""
    parts: list[list[Item]] = [[]]
    found = []
    for item in items:
        if is_token(item, *signs):
            found.append(item.text)
            parts.append([])
        else:
            parts[-1].append(item)
    return parts, found


def _connects(item: Item) -> bool:
    is_word = isinstance(item, Token) and item.kind == "word"
    return is_word and item.text.lower() in CONNECTORS


def split_list(items: Sequence[Item]) -> tuple[list[list[Item]], set[str]]:
    """Cuts at commas, semicolons, "and" and "or"; and which of these there are."""
    parts: list[list[Item]] = [[]]
    found = set()
    after_comma = False
    for item in items:
        if is_token(item, ",", ";") or _connects(item):
            found.add(item.text.lower())
            if not (after_comma and _connects(item) and not parts[-1]):
                parts.append([])
            after_comma = not _connects(item)
        else:
            parts[-1].append(item)
    return parts, found
