"""Views of a board: detection, agreement of judges, sensitivity and best-known attacks."""
