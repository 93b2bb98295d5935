"""Modules that the command needs for most of its work; imported by the server that ``tests.console`` forks from."""

import leaderboard.commands
import leaderboard.page.site  # noqa: F401
