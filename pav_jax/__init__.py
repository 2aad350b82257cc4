"""Process advantage verifiers in JAX (arXiv 2410.08146)."""

import os

__version__ = "0.1.0"

# At the first path of any kind, etils.epath settles whether it reads buckets by
# TensorFlow.
os.environ["EPATH_USE_TF"] = "false"
