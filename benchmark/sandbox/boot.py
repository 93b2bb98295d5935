"""First code inside a sandbox: limits its own process, then runs the given module.

It runs as a file, imports nothing of this package, and takes the limits as JSON, the module, and its arguments.
"""

from __future__ import annotations

import json
import resource
import runpy
import sys


def main() -> None:
    """Apply the bounds that cannot be raised again, then run the module."""
    bounds, module = json.loads(sys.argv[1]), sys.argv[2]
    for name, bound in bounds.items():
        kind = getattr(resource, name)
        _, hard = resource.getrlimit(kind)
        limit = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        resource.setrlimit(kind, (limit, limit))
    sys.argv = [module, *sys.argv[3:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
