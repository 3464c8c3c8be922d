"""Metric sinks; one module per kind."""
