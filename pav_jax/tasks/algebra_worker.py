"""A process that tells whether two LaTeX expressions are equal, one pair a line.

`pav_jax.tasks.algebra` starts it and says what goes in and out. What it reads was
written by a model, so the kernel ends it where an expression costs too much, and a
hook of the interpreter keeps it from running any other program or code.
"""

import contextlib
import functools
import json
import os
import random
import re
import resource
import signal
import sys

MEMORY = 2 << 30
# The LaTeX parser takes 2(3) for a mixed number, of value 5.
PRODUCT = re.compile(r"(?:(?<![\d._^])\d+|\))(?=\()")
WARM_UP = (
    (r"\cot x", r"\frac{\cos x}{\sin x}"),
    (r"\sqrt{x^2+2x+1}", "|x+1|"),
    (r"\sum_{k=1}^3 k", r"\int_0^6 1 dx"),
    ("y=2x", "2x-y=0"),
    ("(5,\\infty)", "x>5"),
)
# These compile texts of their own making, in which nothing of an expression occurs.
_GENERATORS = ("sympy.polys.monomials", "collections", "dataclasses")
_FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen")


def main(seconds: float) -> None:
    # The parent reads descriptor 1; no library may print there.
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    # Ctrl-C is the parent's to handle, whose death is the end of standard input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    import sympy.parsing.sympy_parser
    from latex2sympy2_extended import NormalizationConfig, latex2sympy, normalize_latex
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig
    from math_verify import verify

    plain = NormalizationConfig(boxed="none")
    conversion = ConversionConfig(lowercase_symbols=False)

    @functools.lru_cache(maxsize=1 << 12)
    def parse(text):
        text = PRODUCT.sub(r"\g<0>\\cdot ", normalize_latex(text, plain))
        return latex2sympy(
            text,
            is_real=True,
            normalization_config=None,
            conversion_config=conversion,
        )

    def compare(gold: str, answer: str) -> str:
        try:
            first = parse(gold)
        except (Exception, RecursionError):
            return "different"  # equal spellings were seen to before
        try:
            second = parse(answer)
        except MemoryError:
            return "exhausted"
        except (Exception, RecursionError):
            return "unparsed"
        try:
            if differ_somewhere(first, second):
                return "different"
            same = verify(
                first,
                second,
                allow_set_relation_comp=True,
                timeout_seconds=None,
                raise_on_error=True,
            )
            return "equal" if same else "different"
        except MemoryError:
            return "exhausted"
        except (Exception, RecursionError):
            return "different"

    # What SymPy imports when it is first used it must import before it is tied down.
    for pair in WARM_UP:
        compare(*pair)
    # It reads a text, such as the digits that the LaTeX parser hands it, by Python's
    # eval. From here on it reads numbers only, and a decimal stands for itself.
    sympy.parsing.sympy_parser.parse_expr = read_number
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.addaudithook(forbid)
    replies.write("ready\n")
    for line in sys.stdin:
        # The default action of both signals ends the process, in C code too. The
        # first counts the time that it computes, so that a busy machine does not
        # change a grade; the second is for what does not compute.
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.setitimer(signal.ITIMER_REAL, 10 * seconds)
        reply = compare(*json.loads(line))
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        replies.write(reply + "\n")


def read_number(text: str, *args, **kwargs):
    """Stands in for SymPy's `parse_expr`, which evaluates `text`."""
    from sympy import Rational

    if len(text) > 1_000 or not re.fullmatch(r"[0-9]+(\.[0-9]*)?|\.[0-9]+", text):
        raise SyntaxError("not a number")
    return Rational(text)


def differ_somewhere(first, second) -> bool:
    """Whether two expressions have unlike values at a point.

    It settles most wrong answers in a millisecond, where to show that a difference
    does not simplify to nought takes a hundred. Never true of equal expressions.
    """
    from sympy import Expr, Rational

    if not (isinstance(first, Expr) and isinstance(second, Expr)):
        return False
    names = {symbol.name for symbol in first.free_symbols | second.free_symbols}
    draw = random.Random(0)
    # Away from 0, 1 and each other, where unlike things coincide.
    point = {name: Rational(draw.randint(200, 900), 301) for name in sorted(names)}
    with contextlib.suppress(ArithmeticError, AttributeError, TypeError, ValueError):
        left, right = (
            expr.doit()
            .xreplace({s: point[s.name] for s in expr.free_symbols})
            .evalf(30)
            for expr in (first, second)
        )
        if left.is_number and right.is_number and (left - right).is_finite:
            scale = 1 + abs(left) + abs(right)
            return bool(abs(left - right) > 1e-12 * scale)
    return False


def forbid(event: str, args: tuple) -> None:
    """An audit hook: no other program, no connection, no file written, no eval."""
    writes = event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+")
    # A text rather than a module that is being imported, which has a file's name.
    text = event == "compile" and args[0] is not None and args[1] in ("<string>", None)
    if text and sys._getframe(1).f_globals.get("__name__") in _GENERATORS:
        return
    if event in _FORBIDDEN or event.startswith("socket.") or text or writes:
        raise PermissionError(f"{event} while grading")


if __name__ == "__main__":
    main(float(sys.argv[1]))
