"""What LaTeX calls things, and which of its names mean the same."""

# Spelling -> the one that the other modules know.
SAME = {
    "**": "^",
    "−": "-",
    "–": "-",
    "×": "*",
    "·": "*",
    "÷": "/",
    "⁄": "/",
    "<=": r"\le",
    "≤": r"\le",
    ">=": r"\ge",
    "≥": r"\ge",
    "!=": r"\ne",
    "≠": r"\ne",
    "≈": r"\approx",
    "∈": r"\in",
    "∪": r"\cup",
    "∩": r"\cap",
    "∞": r"\infty",
    "∅": r"\emptyset",
    "π": r"\pi",
    "θ": r"\theta",
    "√": r"\sqrt",
    "±": r"\pm",
    "∓": r"\mp",
    "ℝ": r"\R",
    "∠": r"\angle",
    r"\leq": r"\le",
    r"\leqslant": r"\le",
    r"\geq": r"\ge",
    r"\geqslant": r"\ge",
    r"\neq": r"\ne",
    r"\lt": "<",
    r"\gt": ">",
    r"\dfrac": r"\frac",
    r"\tfrac": r"\frac",
    r"\cfrac": r"\frac",
    r"\dbinom": r"\binom",
    r"\tbinom": r"\binom",
    r"\times": "*",
    r"\cdot": "*",
    r"\ast": "*",
    r"\div": "/",
    r"\varnothing": r"\emptyset",
    r"\bigcup": r"\cup",
    r"\bigcap": r"\cap",
    r"\backslash": r"\setminus",
    r"\reals": r"\R",
    r"\Reals": r"\R",
    r"\cr": r"\\",
    r"\lbrace": r"\{",
    r"\lcbrace": r"\{",
    r"\rbrace": r"\}",
    r"\rcbrace": r"\}",
    r"\lbrack": "[",
    r"\rbrack": "]",
    r"\lparen": "(",
    r"\rparen": ")",
    r"\vert": "|",
    r"\lvert": "|",
    r"\rvert": "|",
    r"\mid": "|",
    r"\colon": ":",
    r"\ldots": r"\dots",
    r"\cdots": r"\dots",
    r"\varphi": r"\phi",
    r"\varepsilon": r"\epsilon",
    r"\prime": "'",
    "’": "'",
}
UNITS = {
    "%": "percent",
    r"\%": "percent",
    r"\$": "dollar",
    "€": "euro",
    "£": "poundsterling",
    "¢": "cent",
    r"\pounds": "poundsterling",
    r"\euro": "euro",
}
WORDS = {r"\land": "and", r"\wedge": "and", r"\lor": "or", r"\vee": "or"}
# Names that are commands without a backslash, too.
PLAIN = set(
    "pi sqrt sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log exp "
    "gcd lcm infty theta alpha beta".split()
)
SUPERSCRIPTS = {"²": "2", "³": "3"}

GREEK = set(
    r"""\alpha \beta \gamma \delta \epsilon \zeta \eta \theta \iota \kappa \lambda \mu
    \nu \xi \rho \sigma \tau \upsilon \phi \chi \psi \omega \Gamma \Delta \Theta \Lambda
    \Xi \Pi \Sigma \Upsilon \Phi \Psi \Omega \ell \hbar""".split()
)
FUNCTIONS = set(
    r"""\sin \cos \tan \cot \sec \csc \arcsin \arccos \arctan \sinh \cosh \tanh \ln \log
    \lg \exp \gcd \lcm \max \min \det""".split()
)
INVERSES = {"sin": "arcsin", "cos": "arccos", "tan": "arctan"}
DECORATIONS = set(
    r"\vec \overrightarrow \overleftrightarrow \hat \widehat \overline \bar".split()
)
FIGURES = {r"\angle", r"\triangle", r"\measuredangle", r"\square", r"\odot"}
# Letters that are functions where a bracket follows.
NAMED_FUNCTIONS = set("fgFG")
# Commands with which an operand can begin.
OPERANDS = GREEK | FUNCTIONS | DECORATIONS | FIGURES
OPERANDS |= {r"\frac", r"\sqrt", r"\binom", r"\pi", r"\infty", r"\sum", r"\prod"}
