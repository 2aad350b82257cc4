"""Process advantage verifiers in JAX (arXiv 2410.08146)."""

__version__ = "0.1.0"
