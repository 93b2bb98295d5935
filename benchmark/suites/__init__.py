"""Suites: their settings, and the bundled ones, one YAML file each, whose file name is the registry id."""
