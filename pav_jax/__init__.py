"""Process advantage verifiers in JAX (arXiv 2410.08146)."""

import os

__version__ = "0.1.0"

# etils.epath looks once, at the first path of any kind, whether it may import TensorFlow
# to read a bucket.
os.environ["EPATH_USE_TF"] = "false"
