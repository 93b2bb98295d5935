"""Prediction of a plan's cost in time, memory and disk, from sizes or from samples."""
