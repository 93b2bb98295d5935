"""The engine: registry, federated protocol, generation, judging, records and the command line."""

import logging

__version__ = "0.1.0"

PROTOCOL_VERSION = "2.0"
"""Changes whenever a score could change for the same inputs; part of every key and every row."""

# On some processors bitsandbytes, which PEFT imports, looks for a faster kernel on the hub, does not find the package
# that would fetch it, and says so at every start. Nothing here runs code of the hub.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
