"""The micro world: a synthetic, harmless instruction language with its own tiny models."""

from tasks.micro.world import MicroWorld

__all__ = ["MicroWorld"]
