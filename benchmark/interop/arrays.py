"""Models as named NumPy arrays, the way other frameworks send them, and as the flat vectors that defenses read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark.errors import UsageError
from benchmark.updates import AdapterLayout

Arrays = Mapping[str, "np.ndarray[Any, Any]"]


@dataclass(frozen=True)
class Broadcast:
    """The model that a server sent to its clients in a round.

    Arrays of floating-point numbers, in the order in which they were sent, make up the flat vector. Whole numbers and
    truth values, such as a counter of batches or a table of positions, stay as they were sent.

    Attributes:
        arrays: Name → array.

    Raises:
        UsageError: An entry is no array, no array holds floating-point numbers, a number is not finite in float32, or
            an array holds what cannot be averaged: packed or quantised weights, bfloat16 (NumPy has no such type),
            complex numbers, texts or objects.
    """

    arrays: Arrays

    def __post_init__(self) -> None:
        for name, array in self.arrays.items():
            if not isinstance(array, np.ndarray):
                raise UsageError(f"entry {name!r} is a {type(array).__name__} and no array; send numpy.asarray of it")
            if array.dtype.kind not in "fiub":
                raise UsageError(
                    f"array {name!r} holds {array.dtype}, which cannot be averaged; send it as float32, or leave it "
                    f"out of the arrays that the server sends"
                )
            if array.dtype.kind in "iu" and array.dtype.itemsize == 1 and array.size > 1:
                raise UsageError(
                    f"array {name!r} holds {array.size} values of type {array.dtype}, as quantised weights do, and "
                    f"clients' changes to it would be lost; send the adapters alone, or the weights as float32"
                )
        if not self.layout.names:
            raise UsageError("the model holds no array of floating-point numbers; there is nothing to aggregate")
        for name, view in self.layout.views(self.flat).items():
            if not bool(torch.isfinite(view).all()):
                raise UsageError(
                    f"array {name!r} of the model holds a number that is not finite in float32; start the run again "
                    f"from a model with finite numbers"
                )

    @cached_property
    def layout(self) -> AdapterLayout:
        """Names and shapes of the arrays in the flat vector; a single number has the shape ``(1,)``."""
        kept = {name: array.shape or (1,) for name, array in self.arrays.items() if array.dtype.kind == "f"}
        return AdapterLayout(tuple(kept), tuple(kept.values()))

    @cached_property
    def flat(self) -> Tensor:
        """The model as a float32 tensor ``[d]``."""
        return _joined([self.arrays[name] for name in self.layout.names])

    def update_of(self, sent: Arrays) -> Tensor:
        """Return a client's model minus this one as a float32 tensor ``[d]``.

        Raises:
            ValueError: Names, shapes or kinds of numbers differ, the client changed an array of several whole numbers
                or truth values, or the update or its norm is not finite.
        """
        if sent.keys() != self.arrays.keys():
            odd = sorted(sent.keys() ^ self.arrays.keys())[0]
            raise ValueError(f"array {odd!r} is {'missing' if odd in self.arrays else 'not one that was sent out'}")
        for name in sorted(self.arrays.keys() - set(self.layout.names)):
            ours, theirs = self.arrays[name], sent[name]
            # Packed weights look like a table of positions until a client changes them.
            if ours.size > 1 and (theirs.dtype != ours.dtype or not np.array_equal(theirs, ours)):
                raise ValueError(
                    f"array {name!r} of type {ours.dtype} was changed, and such a change cannot be averaged"
                )
        parts = []
        for name in self.layout.names:
            ours, theirs = self.arrays[name], sent[name]
            if theirs.shape != ours.shape:
                raise ValueError(f"array {name!r} has shape {theirs.shape} and not {ours.shape}")
            if theirs.dtype.kind != "f":
                raise ValueError(f"array {name!r} holds {theirs.dtype} and not floating-point numbers")
            # Differences of what is not finite, or too large for the type, are refused below.
            with np.errstate(all="ignore"):
                parts.append(theirs - ours)
        update = _joined(parts)
        if not bool(torch.isfinite(update.square().sum())):
            raise ValueError("its update is not finite, or so large that its norm is not")
        return update

    def plus(self, update: Tensor) -> dict[str, np.ndarray[Any, Any]]:
        """Return this model with a flat update (``[d]``) added, in the types in which it was sent.

        Raises:
            UsageError: A sum is too large for the type of its array.
        """
        moved = dict(self.arrays)
        for name, part in self.layout.views(update).items():
            ours = self.arrays[name]
            with np.errstate(over="ignore"):  # refused below
                moved[name] = (ours + part.numpy().reshape(ours.shape)).astype(ours.dtype)
            if not np.isfinite(moved[name]).all():
                raise UsageError(
                    f"array {name!r} with the round's update is not finite in {ours.dtype}; send it as float32, or "
                    f"lower the clients' learning rate"
                )
        return moved

    def replaced(self, flat: Tensor) -> dict[str, np.ndarray[Any, Any]]:
        """Return the model whose flat vector is ``flat`` (``[d]``), in the types in which this one was sent."""
        views = self.layout.views(flat)
        return {
            name: views[name].numpy().reshape(array.shape).astype(array.dtype) if name in views else array
            for name, array in self.arrays.items()
        }


def _joined(parts: list[np.ndarray[Any, Any]]) -> Tensor:
    with np.errstate(over="ignore"):  # float64 numbers beyond float32 become infinite, and are refused as such
        return torch.cat([torch.from_numpy(np.array(part, dtype=np.float32).reshape(-1)) for part in parts])
