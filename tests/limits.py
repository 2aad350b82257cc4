"""Whether the limits of a config hold the problems of a task."""

from ml_collections import ConfigDict

from pav_jax.gemma import tokenizer as tokenizers
from pav_jax.labels import step_ends
from pav_jax.tasks import make_task
from pav_jax.tasks.problems import encode_prompt


def check_limits(config: ConfigDict, task: ConfigDict) -> None:
    """Asserts that they hold 400 training problems with their demonstrations."""
    made, limits = make_task(task), config.limits
    problems = made.problems("train", 400)
    texts = [problem.prompt + problem.solution for problem in problems]
    tokenizer = tokenizers.from_config(config.tokenizer, texts, made.vocabulary())
    is_step_end = tokenizer.step_end_mask()
    for problem in problems:
        # One that were longer would raise.
        encode_prompt(tokenizer, problem, max_tokens=limits.max_prompt_tokens)
        solution = tokenizer.encode(problem.solution)
        assert len(solution) < limits.max_tokens  # the end token comes after it
        assert len(step_ends(solution, is_step_end)) <= limits.max_steps
