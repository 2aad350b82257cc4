"""A process that tells whether two answers are equal by algebra, one pair a line.

`pav_jax.tasks.algebra` starts it and says what goes in and out. What it reads was
written by a model, so the kernel ends it where an expression costs too much, and a
hook of the interpreter keeps it from running any other program or code.
"""

import json
import os
import resource
import signal
import sys

MEMORY = 2 << 30
# What SymPy imports when it is first used is imported with these.
WARM_UP = (
    (r"\cot x", r"\frac{\cos x}{\sin x}"),
    (r"\sqrt{x^2+2x+1}", "|x+1|"),
    (r"\sum_{k=1}^3 k", r"\binom{4}{2}+\sqrt[3]{2}-2^{1/3}"),
    (r"(1+i)^2+\ln 2+\pi", r"2i+\ln 2+\pi"),
    ("2x+4y=6", "x+2y-3=0"),
    (r"x^2\le 4", "[-2,1]\\cup[1,2]"),
    (
        r"\begin{pmatrix}1&2\\3&4\end{pmatrix}^2",
        r"\begin{pmatrix}7&10\\15&22\end{pmatrix}",
    ),
    ("f(x)+5!", "120+f(x)"),
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

    from pav_jax.tasks.answers import enclosures, reading, symbolic

    def compare(gold, answer) -> str:
        try:
            equal = symbolic.are_equal(gold, answer)
        except (MemoryError, enclosures.Undecided):
            return "exhausted"
        except (Exception, RecursionError):
            return "different"  # equal spellings were seen to before
        return "equal" if equal else "different"

    for pair in WARM_UP:
        compare(*map(reading.read, pair))
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
