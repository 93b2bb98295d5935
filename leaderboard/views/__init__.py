"""Views of a board: detection, agreement, sensitivity, power and the flat table."""
