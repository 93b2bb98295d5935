"""The engine: registry, federated protocol, generation, judging, records and the command line."""

__version__ = "0.1.0"

PROTOCOL_VERSION = "1.0"
"""Changes whenever a score could change for the same inputs; part of every key and every row."""
