"""The page a run ends with: figures, the ledger, and a step viewer."""
