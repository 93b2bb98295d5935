"""Scores of cells from their verdicts, and the statistics over seeds."""
