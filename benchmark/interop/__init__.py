"""Bridges to other libraries: their rules run here as defenses, and defenses proven here run there."""
