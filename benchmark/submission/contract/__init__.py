"""Checks of a method: metadata, the promises of its hooks, robustness and a smoke run."""
