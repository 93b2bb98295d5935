"""Tables, plots and the static page, computed from rows alone."""
