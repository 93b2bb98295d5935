"""Foreign code in a process of its own, which sees nothing but what it was given."""
