"""Versioned Arrow schemas and the append-only Parquet store."""
