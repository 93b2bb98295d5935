"""The engine: registry, federated protocol, generation, judging, records and the command line."""

import logging

__version__ = "0.1.0"

PROTOCOL_VERSION = "2.0"
"""Changes whenever a score could change for the same inputs, or the way of making keys; part of every key and row."""

COMPARABLE_PROTOCOLS = frozenset({"1.0"})
"""Earlier protocol versions whose rows may stand beside rows of this version, because the same inputs give the same
scores. Version 2.0 changed only how keys are made."""

# On some processors bitsandbytes, which PEFT imports, looks for a faster kernel on the hub, does not find the package
# that would fetch it, and says so at every start. Nothing here runs code of the hub.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
