"""Telemetry: metrics, the access log and relayd's own log."""
