"""The built-in task: its problems, its checker, and grading of hostile text."""

import functools
import hashlib
import itertools
import random
import re

import pytest

from pav_jax.core.errors import UserError
from pav_jax.core.types import Grade, Problem
from pav_jax.gemma.tokenizer import train_tokenizer
from pav_jax.tasks.puzzle import MAX_VALUE, NAMES, Puzzle, Verdict, apply, check
from pav_jax.tasks.relations import Relations

SPLITS = ("train", "validation", "test")
COUNT = 200
# The defaults, and another shape of problem.
TASKS = {
    "default": (Relations(), range(5, 8)),
    "long": (
        Relations(seed=3, min_depth=6, max_depth=9, num_people=14, max_decoy=3),
        range(6, 10),
    ),
    "spread": (
        Relations(min_depth=3, max_depth=7, decoys=(1, 14), num_names=22),
        range(3, 8),
    ),
}
TASK = TASKS["default"][0]


@functools.cache
def _problems(name: str) -> tuple[Problem, ...]:
    return tuple(TASKS[name][0].problems("train", COUNT))


each_task = pytest.mark.parametrize("name", TASKS)

# Splits.


def test_splits_share_no_prompt_and_never_change():
    splits = {split: TASK.problems(split, COUNT) for split in SPLITS}
    prompts = {split: {p.prompt for p in splits[split]} for split in SPLITS}
    assert all(len(split) >= COUNT - 1 for split in prompts.values())
    for one, other in (("train", "validation"), ("train", "test"), SPLITS[1:]):
        assert not prompts[one] & prompts[other]
    for split in SPLITS:
        again = Relations().problems(split, COUNT)
        assert again == splits[split]
        assert TASK.problems(split, 7) == again[:7]  # the first ones stay the first


def test_the_seed_names_the_problems():
    others = Relations(seed=1).problems("train", COUNT)
    assert not {p.prompt for p in others} & {p.prompt for p in _problems("default")}


def test_an_unknown_split():
    with pytest.raises(UserError, match="'dev'.*train, validation, test"):
        TASK.problems("dev", 1)


@pytest.mark.parametrize(
    "arguments",
    [
        {"min_depth": 0},
        {"min_depth": 6, "max_depth": 5},
        {"max_depth": 10},
        {"num_people": 17},
        {"num_people": 13, "num_names": 12},
        {"min_people": 7},
        {"min_people": 11},
    ],
)
def test_impossible_shapes(arguments):
    with pytest.raises(UserError, match="min_depth <= max_depth < min_people"):
        Relations(**arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"decoys": (0, 3)}, "fewest and the most people who are not on the path"),
        ({"decoys": (3, 2)}, "such as"),
        ({"decoys": 3}, "such as"),
        ({"decoys": (1, 2, 3)}, "such as"),
        ({"decoys": (1, 9)}, "num_names - most, got 5, 7, 16"),
        ({"decoys": (1, 2), "min_depth": 0}, "1 <= min_depth"),
        ({"decoys": (1, 2), "min_depth": 8}, "min_depth <= max_depth"),
        ({"decoys": (1, 2), "num_people": 10}, "leave out num_people and min_people"),
        ({"decoys": (1, 2), "min_people": 9}, "leave out num_people and min_people"),
        ({"num_names": 25}, "num_names=25 must be from 1 to 24"),
        ({"num_names": 0}, "num_names=0"),
    ],
)
def test_impossible_people(arguments, words):
    with pytest.raises(UserError, match=words):
        Relations(**arguments)


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_wrong_turns_are_a_probability(share):
    with pytest.raises(UserError, match="wrong_turns.*between 0 and 1"):
        Relations(wrong_turns=share)


def test_the_problems_of_old():
    """Finished runs are of these; a new option must not draw before they are made."""
    texts = (f"{p.prompt}{p.solution}{p.answer}" for p in _problems("default"))
    digest = hashlib.sha256("".join(texts).encode()).hexdigest()
    assert digest.startswith("98a91ebed4aa1f37")


# Problems. The solver below reads the English, and nothing of the module.

WORDS = {
    "fewer": lambda value, k: value + k,
    "more": lambda value, k: value - k,
    "half": lambda value, _: value * 2,
    "third": lambda value, _: value * 3,
    "twice": lambda value, _: value / 2,
}
SENTENCE = re.compile(r"(\w+) has (?:(\d+) |a )?(\w+) (?:than|as many as) (\w+)")


def _solve(prompt: str) -> tuple[dict[str, float], dict[str, str], str]:
    """Everybody's number, whom each was worked out from, and who is asked about."""
    story, _, question = prompt.partition(" How many ")
    sentences = story.removesuffix(".").split(". ")
    while sentences[-1].endswith("gone home"):  # after all others
        sentences.pop()
    relations = [SENTENCE.fullmatch(sentence).groups() for sentence in sentences]
    asked, value, root = re.fullmatch(
        r"\w+ does (\w+) have\? We start with (\d+)\. (\w+)\n", question
    ).groups()
    values, source = {root: int(value)}, {}
    while relations:
        left = []
        for reference, k, word, name in relations:
            if reference in values:
                assert name not in values
                number = WORDS[word](values[reference], k and int(k))
                values[name], source[name] = number, reference
            else:
                left.append((reference, k, word, name))
        assert len(left) < len(relations)
        relations = left
    return values, source, asked


@each_task
def test_branches_that_lead_nowhere_end_at_those_who_have_gone(name):
    for problem in _problems(name):
        _, source, target = _solve(problem.prompt)
        gone = re.findall(r"(\w+) has gone home\.", problem.prompt)
        assert sorted(gone) == sorted(source.keys() - source.values() - {target})


def test_no_phrase_is_used_twice():
    for problem in _problems("default"):
        relations = Puzzle.parse(problem.prompt).relations.values()
        assert len({op for op, _ in relations}) == len(relations) == 9


@each_task
def test_every_number_is_a_small_whole_one(name):
    task, _ = TASKS[name]
    people = {"default": {10}, "long": {14}, "spread": set(range(5, 23))}[name]
    seen = set()
    for problem in _problems(name):
        values, _, target = _solve(problem.prompt)
        assert len(values) in people
        assert all(v == int(v) and 1 <= v <= MAX_VALUE for v in values.values())
        assert problem.answer == str(int(values[target]))
        seen.update(values.values())
    assert len(seen) > 0.9 * MAX_VALUE


@each_task
def test_the_target_is_a_leaf_that_no_decoy_reaches(name):
    for problem in _problems(name):
        _, source, target = _solve(problem.prompt)
        puzzle = Puzzle.parse(problem.prompt)
        assert target == puzzle.target
        assert target not in source.values()  # nobody is worked out from it
        path, person = [], target
        while person in source:
            path.append(person)
            person = source[person]
        assert (person, path[::-1]) == (puzzle.root, puzzle.path())
        # And there are decoys to go wrong with, whose steps are true but useless.
        on_path = {person, *path}
        assert [p for p, s in source.items() if p not in on_path and s in on_path]


@each_task
def test_solutions_are_right(name):
    task, depths = TASKS[name]
    lengths = set()
    for problem in _problems(name):
        puzzle, steps = Puzzle.parse(problem.prompt), problem.solution.split("\n")
        assert task.grade(problem, problem.solution) is Grade.CORRECT
        assert task.grade(problem, problem.solution + "\n") is Grade.CORRECT
        assert check(puzzle, steps) == [Verdict.GOOD] * len(steps)
        assert task.check_steps(problem, problem.solution) == ["good"] * len(steps)
        assert task.answer(problem.solution) == problem.answer
        lengths.add(len(steps))
        assert not problem.solution.endswith("\n") and problem.prompt.endswith("\n")
    # A step for each relation of the path, and the answer line.
    assert lengths == {depth + 1 for depth in depths}
    assert max(lengths) <= 10


@each_task
def test_the_vocabulary_spells_every_problem(name):
    task, _ = TASKS[name]
    pieces = task.vocabulary()
    texts = [problem.prompt + problem.solution for problem in _problems(name)]
    tokenizer = train_tokenizer(texts, vocab_size=4 + len(pieces), pieces=pieces)
    assert tokenizer.vocab_size == 4 + len(pieces)
    is_step_end = tokenizer.step_end_mask()
    # A newline, alone or after a name, so that steps end where lines do.
    names = {piece.removesuffix(". ") for piece in pieces if piece.endswith(". ")}
    assert names - {" has gone home"} == set(NAMES[: 22 if name == "spread" else 16])
    assert is_step_end.sum() == 1 + len(names - {" has gone home"})
    for problem, text in zip(_problems(name), texts, strict=True):
        assert tokenizer.decode(tokenizer.encode(text)) == text
        prompt = tokenizer.encode(problem.prompt)
        assert tokenizer.decode(prompt) == problem.prompt
        # The same tokens apart as together: prefixes are never tokenised again.
        solution = tokenizer.encode(problem.solution)
        assert prompt + solution == tokenizer.encode(text)
        lines = problem.solution.split("\n")
        assert len(solution) == 5 * (len(lines) - 1) + 2
        assert is_step_end[solution].sum() == len(lines) - 1


def test_decoys_are_as_many_as_asked_for_whatever_the_path():
    task = Relations(min_depth=2, max_depth=3, decoys=(1, 4))
    seen = set()
    for problem in task.problems("train", COUNT):
        _, source, _ = _solve(problem.prompt)
        puzzle = Puzzle.parse(problem.prompt)
        seen.add((len(puzzle.path()), len(source) - len(puzzle.path())))
    assert seen == set(itertools.product((2, 3), (1, 2, 3, 4)))


# The variant for RL: who has gone is said beside, and demonstrations go wrong.


def _for_rl(wrong_turns: float, **others) -> Relations:
    shape = dict(min_depth=4, max_depth=4, min_people=6, num_people=9)
    return Relations(**shape, wrong_turns=wrong_turns, gone_beside=True, **others)


def _at_forks(problem: Problem) -> list[bool]:
    """Whether the demonstration went right at each fork that it came to."""
    puzzle = Puzzle.parse(problem.prompt)
    path = [puzzle.root, *puzzle.path()]
    onward = [reference for _, reference in puzzle.relations.values()]
    people = [puzzle.root, *re.findall(r"\. (\w+)$", problem.solution, re.MULTILINE)]
    return [
        name in path
        for at, name in itertools.pairwise(people)
        if at in path and onward.count(at) > 1
    ]


@pytest.mark.parametrize("max_decoy", [1, 3])
def test_who_has_gone_is_said_before_the_sentence_that_leads_there(max_decoy):
    people = set()
    for problem in _for_rl(0.0, max_decoy=max_decoy).problems("train", COUNT):
        puzzle = Puzzle.parse(problem.prompt)
        gone = re.findall(
            r"(\w+) has gone home\. \w+ has [^.]* (\w+)\.", problem.prompt
        )
        assert all(left == name for left, name in gone)
        inner = {reference for _, reference in puzzle.relations.values()}
        leaves = puzzle.relations.keys() - inner - {puzzle.target}
        assert sorted(leaves) == sorted(name for name, _ in gone)
        assert TASK.grade(problem, problem.solution) is Grade.CORRECT
        people.add(1 + len(puzzle.relations))
    assert people == {6, 7, 8, 9}


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_demonstrations_go_wrong_as_often_as_asked(share):
    taken = []
    for problem in _for_rl(share, max_decoy=2).problems("train", 4 * COUNT):
        verdicts = TASK.check_steps(problem, problem.solution)
        turns = _at_forks(problem)
        taken += turns
        if all(turns):
            assert set(verdicts) == {"good"}
            assert TASK.grade(problem, problem.solution) is Grade.CORRECT
            continue
        # True steps to the branch's end, and the number that is had there.
        assert not any(turns[turns.index(False) + 1 :])
        first = verdicts.index("useless")
        assert set(verdicts[:first]) <= {"good"}
        assert set(verdicts[first:-1]) == {"useless"}
        *_, last, answer = problem.solution.split("\n")
        assert re.search(r"-> (\d+)\.", last)[1] == answer.removeprefix("Answer: ")
        assert f"{last.rpartition(' ')[2]} has gone home." in problem.prompt
    wrong = 1 - sum(taken) / len(taken)
    assert wrong == pytest.approx(
        share, abs=4 * (share * (1 - share) / len(taken)) ** 0.5
    )


def test_wrong_turns_change_no_problem():
    careful, careless = (_for_rl(x).problems("train", COUNT) for x in (0.0, 0.7))
    assert [(p.prompt, p.answer) for p in careful] == [
        (p.prompt, p.answer) for p in careless
    ]


def test_operations():
    assert [apply("+ 3", 7), apply("- 3", 7), apply("* 3", 7)] == [10, 4, 21]
    assert [apply("/ 2", 8), apply("/ 2", 7)] == [4, None]
    assert [apply("- 3", 3), apply("- 3", 4)] == [None, 1]
    assert [apply("+ 1", MAX_VALUE), apply("* 2", MAX_VALUE // 2)] == [None, MAX_VALUE]


# The checker. Cleo is asked about; Dan is a decoy, and Eve is one behind him.

PROMPT = (
    "Ben has 3 more than Cleo. Ana has half as many as Ben."
    " Ben has twice as many as Dan. Dan has 2 fewer than Eve. Eve has gone home."
    " How many coins does Cleo have? We start with 5. Ana\n"
)
BEN = " has half as many as Ben: 5 -> 10. Ben"
CLEO = " has 3 more than Cleo: 10 -> 7. Cleo"
DAN = " has twice as many as Dan: 10 -> 5. Dan"
EVE = " has 2 fewer than Eve: 5 -> 7. Eve"
PROBLEM = Problem(PROMPT, "7", f"{BEN}\n{CLEO}\nAnswer: 7")


def test_parse():
    puzzle = Puzzle.parse(PROMPT)
    assert (puzzle.root, puzzle.value, puzzle.target) == ("Ana", 5, "Cleo")
    assert puzzle.relations == {
        "Ben": ("* 2", "Ana"),
        "Cleo": ("- 3", "Ben"),
        "Dan": ("/ 2", "Ben"),
        "Eve": ("+ 2", "Dan"),
    }
    assert puzzle.path() == ["Ben", "Cleo"]


@pytest.mark.parametrize(
    ("steps", "verdicts"),
    [
        ([BEN, CLEO, "Answer: 7"], "good good good"),
        # A true step that leads elsewhere, once and twice; nothing leads back.
        ([BEN, DAN, EVE], "good useless useless"),
        ([BEN, DAN, CLEO, "Answer: 7"], "good useless wrong_fact good"),
        # A number already worked out, or given, whatever the step makes of it.
        ([BEN, BEN], "good restated"),
        ([BEN, CLEO, BEN, CLEO], "good good restated restated"),
        ([BEN, " has half as many as Ben: 5 -> 11. Ben"], "good restated"),
        ([" has half as many as Ana: 5 -> 10. Ana"], "restated"),
        # An operation that was never given, though it may lead to the number.
        ([" has 5 fewer than Ben: 5 -> 10. Ben"], "wrong_fact"),
        ([" has twice as many as Ben: 5 -> 10. Ben"], "wrong_fact"),
        # Of or from the wrong person.
        ([" has half as many as Cleo: 5 -> 10. Cleo"], "wrong_fact"),
        ([" has half as many as Pia: 5 -> 10. Pia"], "wrong_fact"),
        ([CLEO], "wrong_fact"),
        # From another number than the last one.
        ([" has half as many as Ben: 6 -> 12. Ben"], "wrong_fact"),
        # The right operation on the right number, and a wrong result.
        ([" has half as many as Ben: 5 -> 11. Ben"], "wrong_arithmetic"),
        ([BEN, " has 3 more than Cleo: 10 -> 13. Cleo"], "good wrong_arithmetic"),
        # Wrong before useless: a decoy's wrong result is not true.
        ([BEN, " has twice as many as Dan: 10 -> 6. Dan"], "good wrong_arithmetic"),
        # What follows a mistake is judged by what it takes from it.
        (
            [
                " has half as many as Ben: 5 -> 11. Ben",
                " has 3 more than Cleo: 11 -> 8. Cleo",
                "Answer: 8",
            ],
            "wrong_arithmetic good good",
        ),
        (
            [" has half as many as Ben: 5 -> 11. Ben", CLEO, "Answer: 7"],
            "wrong_arithmetic wrong_fact good",
        ),
        # The answer line.
        ([BEN, CLEO, "Answer: 10"], "good good wrong_answer"),
        ([BEN, "Answer: 10"], "good wrong_answer"),
        (["Answer: 7"], "wrong_answer"),
        # Not a step.
        (["", "Ben", BEN + " ", " " + BEN, BEN + ".", BEN + "0"], "unparsed " * 6),
        ([" has -5 fewer than Ben: 5 -> 10. Ben", "answer: 7"], "unparsed unparsed"),
        (["Ana" + BEN, BEN.removesuffix(". Ben"), BEN[:-3] + "Dan"], "unparsed " * 3),
        (["Answer: 7 coins", "Answer: 107", "Answer: -7", "Answer:7"], "unparsed " * 4),
        ([" has half as many as Zoe: 5 -> 10. Zoe"], "unparsed"),
    ],
)
def test_verdicts(steps, verdicts):
    assert [v.value for v in check(Puzzle.parse(PROMPT), steps)] == verdicts.split()
    if all(steps):
        assert TASK.check_steps(PROBLEM, "\n".join(steps)) == verdicts.split()


def test_every_verdict_is_good_or_an_error():
    assert {verdict.value for verdict in Verdict} == {
        *("good", "useless", "restated", "unparsed"),
        *("wrong_fact", "wrong_arithmetic", "wrong_answer"),
    }


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "Natalia sold 48 clips in April. How many did she sell in May?\n",
        "Ana has half as many as Ben. We start with 5. Ana\n",  # nobody is asked about
        "Ana has half as many as Ben. How many coins does Ben have?\n",  # nor given
        "How many coins does Zoe have? We start with 5. Zoe\n",
    ],
)
def test_a_foreign_prompt(prompt):
    with pytest.raises(UserError, match="not a prompt of the relations task"):
        Puzzle.parse(prompt)


@pytest.mark.parametrize(
    "relations",
    [
        "",
        "Ana has 3 fewer than Cleo. ",  # Ben is left out
        "Cleo has 3 fewer than Ben. Ben has 2 more than Cleo. ",  # a circle
        "Ben has 3 fewer than Ben. ",
    ],
)
def test_a_prompt_without_a_way_to_its_target(relations):
    prompt = f"{relations}How many coins does Ben have? We start with 5. Ana\n"
    with pytest.raises(UserError, match="no relations lead from Ana to Ben"):
        check(Puzzle.parse(prompt), ["Answer: 5"])


# Grading.


@pytest.mark.parametrize(
    ("answer", "response", "grade"),
    [
        ("1", "Answer: 1", Grade.CORRECT),
        ("1", "Answer: 11", Grade.WRONG),
        ("11", "Answer: 1", Grade.WRONG),
        ("1", "Answer: 21", Grade.WRONG),
        ("1", "Answer: 12", Grade.WRONG),
        ("7", f"{BEN}\n{CLEO}\nAnswer: 7", Grade.CORRECT),
        ("7", "Answer: 7\n", Grade.CORRECT),
        ("7", "nonsense\n\n\nAnswer: 7\n\n", Grade.CORRECT),  # only the end counts
        ("7", "Answer: 8\nAnswer: 7", Grade.CORRECT),
        ("7", "Answer: 7\nAnswer: 8", Grade.WRONG),
        ("7", "Answer: 7\n" + BEN, Grade.UNPARSED),
        ("7", BEN.replace("10", "7"), Grade.UNPARSED),  # a step is no answer
        ("7", "", Grade.UNPARSED),
        ("7", "\n\n", Grade.UNPARSED),
        ("7", "7", Grade.UNPARSED),
        ("7", "Answer:", Grade.UNPARSED),
        ("7", "Answer: ", Grade.UNPARSED),
        ("7", "Answer: 7.0", Grade.UNPARSED),
        ("7", "Answer: 7 ", Grade.UNPARSED),
        ("7", " Answer: 7", Grade.UNPARSED),
        ("7", "Answer: 7\r", Grade.UNPARSED),
        ("7", "Answer: 007", Grade.UNPARSED),
        ("7", "Answer: 7Answer: 7", Grade.UNPARSED),
        ("7", "So Answer: 7", Grade.UNPARSED),
        ("7", "Answer: 3+4", Grade.UNPARSED),
        ("7", "Answer: __import__('os')._exit(1)", Grade.UNPARSED),
        ("7", "Answer: 7\0", Grade.UNPARSED),
        ("7", "Answer: \u0667", Grade.UNPARSED),  # digits, but not ours
        ("7", "Answer: 07", Grade.UNPARSED),
        ("0", "Answer: 00", Grade.UNPARSED),
        ("7", "\ud800\nAnswer: 7", Grade.CORRECT),
        ("7", "Answer: " + "7" * 1_000_000, Grade.UNPARSED),
        ("7", "Answer: " * 100_000 + "7", Grade.UNPARSED),
        ("7", "\n" * 1_000_000, Grade.UNPARSED),
    ],
)
def test_grade(answer, response, grade):
    problem = Problem(PROMPT, answer)
    assert TASK.grade(problem, response) is grade
    # Voting sees the answers that grading sees, in one spelling each.
    found = TASK.answer(response)
    assert (found is None) == (grade is Grade.UNPARSED)
    assert (found == answer) == (grade is Grade.CORRECT)


@pytest.mark.parametrize(
    "line", ["Answer: \u0667", "Answer: 07", BEN.replace("5", "\u0665"), "Answer: 7\r"]
)
def test_the_checker_accepts_no_more_than_the_grader(line):
    """Numbers in another spelling are no numbers, to either of them."""
    words = TASK.check_steps(PROBLEM, f"{BEN}\n{CLEO}\n{line}")
    assert words == ["good", "good", "unparsed"]


def test_the_way_as_part_of_the_answer():
    task = Relations(answer_path=True)
    for problem, plain in zip(
        task.problems("train", COUNT), _problems("default"), strict=True
    ):
        assert (problem.prompt, problem.solution) == (plain.prompt, plain.solution)
        people = [line.rpartition(" ")[2] for line in plain.solution.split("\n")[:-1]]
        assert problem.answer == " ".join([*people, plain.answer])
        assert task.answer(problem.solution) == problem.answer
        assert task.grade(problem, problem.solution + "\n") is Grade.CORRECT


@pytest.mark.parametrize(
    ("response", "grade"),
    [
        (f"{BEN}\n{CLEO}\nAnswer: 7", Grade.CORRECT),
        (f"{BEN}\n{CLEO}\nAnswer: 8", Grade.WRONG),
        ("Answer: 7", Grade.WRONG),  # by luck
        (f"{BEN}\nAnswer: 7", Grade.WRONG),
        (f"{BEN}\n{DAN}\n{EVE}\nAnswer: 7", Grade.WRONG),
        (f"{BEN}\n{DAN}\n{CLEO}\nAnswer: 7", Grade.WRONG),
        (f"{CLEO}\n{BEN}\nAnswer: 7", Grade.WRONG),
        (f"{BEN}\n\n{CLEO}\nAnswer: 7", Grade.UNPARSED),
        (f"{BEN}\nAnswer: 7\n{CLEO}\nAnswer: 7", Grade.UNPARSED),
        (f"{BEN}\n{CLEO}", Grade.UNPARSED),
        ("", Grade.UNPARSED),
    ],
)
def test_no_grade_by_luck_where_the_way_is_part_of_the_answer(response, grade):
    problem = Problem(PROMPT, "Ben Cleo 7")
    assert Relations(answer_path=True).grade(problem, response) is grade


def test_hostile_text_raises_nothing():
    rng = random.Random(0)
    parts = [BEN, CLEO, "Answer: 7", "\n", "\n\n", "\0", "\ud800", "٣", " ", "-> 99"]
    parts += [
        "Ana has ",
        " has half as many as " * 50,
        ": 99 -> 99",
        "\\",
        "(",
        "\u2028",
    ]
    for _ in range(500):
        text = "".join(rng.choices(parts, k=rng.randrange(12)))
        assert TASK.grade(PROBLEM, text) in Grade
        words = TASK.check_steps(PROBLEM, text)
        assert len(words) == text.rstrip("\n").count("\n") + 1
        assert set(words) <= {verdict.value for verdict in Verdict}
        hash(TASK.facts(PROBLEM, text))


# What an oracle groups prefixes by.


def test_states():
    def state(*steps):
        return TASK.facts(PROBLEM, "".join(f"{step}\n" for step in steps))

    assert state() == (Verdict.GOOD, 0, 2, False)
    assert state(BEN) == (Verdict.GOOD, 1, 1, False)
    assert state(BEN, CLEO) == (Verdict.GOOD, 2, 0, False)
    assert state(BEN, DAN) == (Verdict.USELESS, 2, 1, True)
    assert state(BEN, DAN, CLEO) == (Verdict.WRONG_FACT, 3, 0, False)
    assert state(BEN.replace("10", "9")) == (Verdict.WRONG_ARITHMETIC, 1, 1, False)
    assert state(BEN, CLEO, "Answer: 7") == ("ended", Grade.CORRECT)
    assert state("Answer: 8") == ("ended", Grade.WRONG)
    # The newline of the last step may be missing.
    assert TASK.facts(PROBLEM, BEN) == state(BEN)
