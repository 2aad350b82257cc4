"""Tasks whose values are known exactly, on which the paper's claims take seconds."""
