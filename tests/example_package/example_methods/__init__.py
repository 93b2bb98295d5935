"""Methods from outside, offered by entry points."""
