r"""Reads items as one mathematical expression: a tree of `trees`.

Two things beside each other are multiplied, with these exceptions: `1\frac45` and
`1 4/5` are mixed numbers, if the fraction is a proper one; a number after anything but
a power (`3 4`, `x2`, but not `2^6 3`) says nothing; `f(2)` is a value of a function. A
slash divides by the next factor alone, and the argument of `\sin` and its like ends at
a sign or at the next function. `i` is the imaginary unit, `e` is Euler's number, and
`\log` has base 10. A degree is pi/180 in a sine and its like.
"""

import re
from collections.abc import Sequence
from fractions import Fraction

from pav_jax.tasks.answers import latex_names, trees
from pav_jax.tasks.answers.latex import (
    Group,
    Item,
    Token,
    Unreadable,
    cut,
    is_token,
    spell,
)
from pav_jax.tasks.answers.trees import Tree

_OPEN = {"(", "[", "{"}
_ENVIRONMENT = re.compile(r"\\begin\{([pbBvV]?matrix|smallmatrix|array)\}")


def read_expression(items: Sequence[Item]) -> Tree:
    """The tree of an expression.

    Raises:
      Unreadable: the items are not one.
    """
    sides, choose = cut(items, {r"\choose"})
    if len(choose) == 1:
        return trees.function("binomial", *map(read_expression, sides))
    parser = _Parser(items)
    try:
        tree = parser.sum()
    except (ValueError, ZeroDivisionError) as error:
        raise Unreadable(str(error)) from error
    if parser.items:
        raise Unreadable(f"{spell(parser.items[:1])!r} in an expression")
    return tree


def _starts_operand(item: Item) -> bool:
    """Whether an operand can begin with an item."""
    if isinstance(item, Group) or item.kind in ("number", "letter", "name"):
        return True
    return item.text == "|" or item.text in latex_names.OPERANDS


class _Parser:
    """Reads items from the left; each method takes what it read away."""

    def __init__(self, items: Sequence[Item]):
        self.items = list(items)
        self.after_power = False  # whether the factor before ends with an exponent

    def peek(self, *texts: str) -> bool:
        return bool(self.items) and is_token(self.items[0], *texts)

    def take(self) -> Item:
        if not self.items:
            raise Unreadable("an operand is missing")
        return self.items.pop(0)

    def sum(self) -> Tree:
        terms = [self.product()]
        while self.peek("+", "-"):
            sign = self.take().text
            term = self.product()
            terms.append(term if sign == "+" else trees.negative(term))
        return trees.add(*terms)

    def product(self) -> Tree:
        if self.peek("-", "+"):
            sign = self.take().text
            tree = self.product()
            return tree if sign == "+" else trees.negative(tree)
        mixed = self.mixed_number()
        factors = [self.factor() if mixed is None else mixed]
        while self.items:
            item = self.items[0]
            if self.peek("*"):
                self.take()
                factors.append(self.signed_factor())
            elif self.peek("/"):
                self.take()
                factors.append(trees.power(self.signed_factor(), trees.MINUS_ONE))
            elif _starts_operand(item):
                self.check_beside(item)
                factors.append(self.factor())
            else:
                break
        return trees.mul(*factors)

    def signed_factor(self) -> Tree:
        if self.peek("-"):
            self.take()
            return trees.negative(self.factor())
        return self.factor()

    def check_beside(self, item: Item) -> None:
        """Raises Unreadable for a number after anything but a power."""
        number = isinstance(item, Token) and item.kind == "number"
        if number and not self.after_power:
            raise Unreadable("a number beside something")

    def mixed_number(self) -> Tree | None:
        """1 4/5 or 1\\frac{4}{5}; None if the items do not begin with one."""
        if len(self.items) < 2 or not _is_whole(self.items[0]):
            return None
        whole = Fraction(self.items[0].text)
        rest = _Parser(self.items[1:])
        if rest.peek(r"\frac"):
            rest.take()
            arguments = [rest.argument(), rest.argument()]
            if not all(len(a) == 1 and _is_whole(a[0]) for a in arguments):
                return None
            top, bottom = (int(argument[0].text) for argument in arguments)
        elif (
            len(rest.items) > 2
            and _is_whole(rest.items[0])
            and rest.items[0].spaced
            and is_token(rest.items[1], "/")
            and _is_whole(rest.items[2])
        ):
            top, bottom = int(rest.items[0].text), int(rest.items[2].text)
            del rest.items[:3]
        else:
            return None
        if not 0 < top < bottom or rest.peek("^", "!", "_"):
            raise Unreadable("not a mixed number")
        self.items = rest.items
        return trees.num(whole + Fraction(top, bottom))

    def factor(self) -> Tree:
        """An atom with what follows it: a power, a factorial, a degree."""
        base = self.atom()
        self.after_power = False
        while self.peek("^", "!", r"\degree"):
            sign = self.take().text
            self.after_power = sign == "^"
            if sign == "^":
                base = trees.power(base, self.exponent())
            elif sign == "!":
                if self.peek("!"):
                    raise Unreadable("a double factorial")
                base = trees.function("factorial", base)
            else:
                base = trees.mul(base, trees.DEGREE)
        return base

    def exponent(self) -> Tree:
        if self.peek("-", "+"):
            sign = self.take().text
            tree = self.exponent()
            return tree if sign == "+" else trees.negative(tree)
        item = self.items[0] if self.items else None
        if isinstance(item, Group) and item.open == "{":
            return read_expression(self.take().items)
        tree = self.atom()
        if self.peek("^"):
            raise Unreadable("two exponents")
        return tree

    def argument(self) -> Sequence[Item]:
        r"""What a command such as \frac takes: a group, one digit or one command."""
        item = self.take()
        if isinstance(item, Group):
            if item.open == "{":
                return item.items
            raise Unreadable("an argument is missing")
        if item.kind == "number" and item.text.isdigit():
            if len(item.text) > 1:
                self.items.insert(0, Token("number", item.text[1:]))
            return [Token("number", item.text[0])]
        if item.kind == "letter" or item.text in (r"\pi", *latex_names.GREEK):
            return [item]
        if item.text == r"\sqrt":
            return [item, Group("{", "}", tuple(self.argument()))]
        raise Unreadable("an argument is missing")

    def atom(self) -> Tree:
        item = self.take()
        if isinstance(item, Group):
            return self.group(item)
        if item.kind == "number":
            return self.number(item.text)
        if item.kind in ("letter", "name"):
            return self.symbol(item.text)
        if item.text == "|":
            return self.absolute()
        if item.kind == "command":
            return self.command(item.text)
        raise Unreadable(f"{item.text!r} in an expression")

    def number(self, text: str) -> Tree:
        if self.peek("_"):
            self.take()
            base = spell([self.take()]).strip("{}")
            if base == "10":
                return trees.num(text)
            if not base.isdigit():
                raise Unreadable("a base")
            return "sym", f"{text.lstrip('0')}_{base}"
        whole, bracket, repeated = text.partition("(")
        value = Fraction(whole if whole.strip(".") else "0")
        if bracket:
            shift = len(whole.partition(".")[2])
            nines = 10 ** len(repeated) - 1
            value += Fraction(int(repeated), nines * 10**shift)
        return trees.num(value)

    def symbol(self, name: str) -> Tree:
        suffix = self.suffix()
        if name in ("e", "i") and not suffix:
            return "const", name
        following = self.items[0] if self.items else None
        is_called = isinstance(following, Group) and following.open == "("
        if is_called and name in latex_names.NAMED_FUNCTIONS:
            return "call", name + suffix, *self.arguments(self.take())
        return "sym", name + suffix

    def suffix(self) -> str:
        """A subscript and primes."""
        text = ""
        while self.peek("_", "'"):
            if self.take().text == "'":
                text += "'"
            else:
                inner = spell([self.take()])
                text += "_" + inner.removeprefix("{").removesuffix("}")
        return text

    def arguments(self, group: Group) -> list[Tree]:
        parts: list[list[Item]] = [[]]
        for item in group.items:
            if is_token(item, ","):
                parts.append([])
            else:
                parts[-1].append(item)
        return [read_expression(part) for part in parts]

    def group(self, group: Group) -> Tree:
        if group.open.startswith(r"\begin"):
            return _matrix(group)
        if group.open in (r"\lfloor", r"\lceil"):
            name = "floor" if group.open == r"\lfloor" else "ceiling"
            return trees.function(name, read_expression(group.items))
        closes = {"(": ")", "[": "]", "{": "}"}.get(group.open)
        if closes != group.close:
            raise Unreadable("a set in an expression")
        return read_expression(group.items)

    def absolute(self) -> Tree:
        for index, item in enumerate(self.items):
            if is_token(item, "|") and index:
                inside, self.items = self.items[:index], self.items[index + 1 :]
                tree = read_expression(inside)
                if trees.has_matrix(tree):
                    return trees.function("det", tree)
                return trees.function("abs", tree)
        raise Unreadable("| is not closed")

    def command(self, name: str) -> Tree:
        if name == r"\pi":
            suffix = self.suffix()
            return ("sym", name + suffix) if suffix else trees.PI
        if name == r"\infty":
            return trees.INFINITY
        if name in (r"\frac", r"\binom"):
            top, bottom = self.argument(), self.argument()
            parts = read_expression(top), read_expression(bottom)
            if name == r"\frac":
                return trees.divide(*parts)
            return trees.function("binomial", *parts)
        if name == r"\sqrt":
            return self.root()
        if name in latex_names.GREEK:
            return "sym", name + self.suffix()
        if name in latex_names.FUNCTIONS:
            return self.function(name[1:])
        if name in latex_names.DECORATIONS:
            return self.decorated(name)
        if name in latex_names.FIGURES:
            return "sym", f"{name} {spell([self.take()])}"
        if name in (r"\sum", r"\prod"):
            return self.series(name[1:])
        raise Unreadable(f"{name} in an expression")

    def root(self) -> Tree:
        degree = trees.num(2)
        following = self.items[0] if self.items else None
        if isinstance(following, Group) and following.open == "[":
            degree = read_expression(self.take().items)
            following = self.items[0] if self.items else None
        if isinstance(following, Group) and following.open in _OPEN:
            inside = read_expression(self.take().items)
        elif isinstance(following, Token) and following.kind == "number":
            inside = self.number(self.take().text)  # √12 is no 2√1
        else:
            inside = read_expression(self.argument())
        return trees.power(inside, trees.power(degree, trees.MINUS_ONE))

    def function(self, name: str) -> Tree:
        exponent = base = None
        while self.peek("^", "_"):
            if self.take().text == "^":
                exponent = self.exponent()
            else:
                base = self.exponent()
        if exponent == trees.MINUS_ONE and name in latex_names.INVERSES:
            name, exponent = latex_names.INVERSES[name], None
        following = self.items[0] if self.items else None
        if isinstance(following, Group) and following.open in ("(", "["):
            arguments = self.arguments(self.take())
        else:
            arguments = [self.bare_argument()]
        tree = trees.apply(name, base, arguments)
        return tree if exponent is None else trees.power(tree, exponent)

    def bare_argument(self) -> Tree:
        """The argument of a function without brackets."""
        if self.peek("-"):
            self.take()
            return trees.negative(self.bare_argument())
        factors = [self.factor()]
        while self.items and _starts_operand(self.items[0]):
            if is_token(self.items[0], "|", *latex_names.FUNCTIONS):
                break
            self.check_beside(self.items[0])
            factors.append(self.factor())
        return trees.mul(*factors)

    def decorated(self, name: str) -> Tree:
        inside = self.argument()
        text = spell(inside)
        single = len(inside) == 1 and isinstance(inside[0], Token)
        if name in (r"\overline", r"\bar"):
            # A segment, or else a conjugate, which is not what it is of.
            if single and inside[0].kind == "name":
                return self.symbol(text)
            return trees.function("conjugate", read_expression(inside))
        if not single:
            raise Unreadable(name)
        return self.symbol(text)

    def series(self, name: str) -> Tree:
        r"""\sum_{k=1}^{n} and \prod; the body is the product that follows."""
        limits = {}
        while self.peek("^", "_"):
            sign = self.take().text
            group = self.take()
            limits[sign] = group.items if isinstance(group, Group) else [group]
        first = limits.get("_", ())
        if len(first) < 3 or not is_token(first[1], "=") or "^" not in limits:
            raise Unreadable("limits of a sum")
        variable = read_expression(first[:1])
        if variable == ("const", "i"):
            raise Unreadable("i counts")
        body = self.product()
        bounds = read_expression(first[2:]), read_expression(limits["^"])
        if variable[0] != "sym":
            raise Unreadable("an index of a sum")
        return name, variable, *bounds, body


def _is_whole(item: Item) -> bool:
    return isinstance(item, Token) and item.kind == "number" and item.text.isdigit()


def _matrix(group: Group) -> Tree:
    kind = _ENVIRONMENT.fullmatch(group.open)
    if kind is None:
        raise Unreadable(group.open)
    rows: list[list[list[Item]]] = [[[]]]
    for item in group.items:
        if is_token(item, r"\\"):
            rows.append([[]])
        elif is_token(item, "&"):
            rows[-1].append([])
        elif not is_token(item, r"\hline"):
            rows[-1][-1].append(item)
    if rows[-1] == [[]]:
        rows.pop()
    if not rows or len({len(row) for row in rows}) > 1:
        raise Unreadable("rows of different lengths")
    cells = (tuple(read_expression(cell) for cell in row) for row in rows)
    tree = "matrix", *cells
    return trees.function("det", tree) if kind[1] == "vmatrix" else tree
