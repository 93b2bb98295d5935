"""Bundles, each of which holds the source of a method, the rows of the method, and digests of both."""
