"""Execution of a suite: the plan, its worker processes, the answers and the verdicts."""
