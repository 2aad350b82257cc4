"""Reads answers and compares them: all that `pav_jax.tasks.grading` knows of them.

In the order in which an answer goes through them:

- `latex` (with the tables of `latex_names`): its spelling, as tokens and brackets;
- `expressions`, `lone_names`, `values` (with `units`): expressions as `trees`, with the
  names before them and the units after them;
- `reading`: what kind of answer it is, and its parts;
- `comparing`: what equals what; `symbolic` is its algebra, and `enclosures` the digits
  of numbers; both run in processes of their own (`pav_jax.tasks.algebra`).
"""
