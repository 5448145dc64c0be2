"""Metrics that need no weights."""
