"""Sheets of answers that people label, so that the verdicts of a judge can be compared with their labels."""
