"""Attacks, inside the package, so that no top-level package is hidden."""
