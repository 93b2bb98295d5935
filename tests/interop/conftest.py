"""Flower's tests have an environment of their own (`make flower`); elsewhere they are not collected."""

from __future__ import annotations

import importlib.util

collect_ignore = [] if importlib.util.find_spec("flwr") else ["flower"]
