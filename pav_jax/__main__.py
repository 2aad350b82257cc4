"""`python -m pav_jax` is the `pav` command."""

import sys

from pav_jax.main import main

if __name__ == "__main__":
    sys.exit(main())
