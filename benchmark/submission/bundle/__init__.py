"""Bundles: one file with a method's source, its rows and digests of both, made and read."""
