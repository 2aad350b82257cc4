"""What runs have measured, kept in a file."""

from pav_jax.tools import kept_measures


def test_the_first_field_that_differs_is_named(tmp_path):
    """Always the same one, or a page would differ from one writing to the next."""
    path = tmp_path / "arms.json"
    fields = [f"section.{letter}" for letter in "hgfedcba"]
    kept_measures.write(path, dict.fromkeys(fields, 1), [({"seed": 0}, {"x": 2.0})])
    same = kept_measures.read(path, dict.fromkeys(fields, 1))
    assert same.found == [({"seed": 0}, {"x": 2.0})] and not same.other
    other = kept_measures.read(path, dict.fromkeys(fields[:-1], 2))
    assert other.found == []
    assert other.other == "section.b is 1 there, and 2 now"
