"""Verification of a bundle: identity, rows, verdicts, a second run, scores and the rung."""
