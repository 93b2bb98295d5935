"""Bundled suites, one YAML file each; the file name is the registry id."""
