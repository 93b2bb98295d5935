"""Prediction of what a plan costs in time, memory and disk, from sizes or from samples."""
