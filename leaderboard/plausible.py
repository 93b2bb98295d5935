"""What a row must satisfy beyond its column types; see :mod:`benchmark.records.plausible`."""

from benchmark.records.plausible import find_problem

__all__ = ["find_problem"]
