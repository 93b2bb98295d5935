"""The micro world: a synthetic, harmless instruction language with its own tiny models."""
