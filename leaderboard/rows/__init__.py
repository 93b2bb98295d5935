"""Rows: read from folders, put in canonical form, selected, retracted and described."""
