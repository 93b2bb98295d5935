"""Commands of ``fedsafety``."""
