"""A package, so that experiments/paper/ can import what is a figure of the paper."""
