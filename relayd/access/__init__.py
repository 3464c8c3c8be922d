"""Authentication of consumers, and cross-origin access."""
