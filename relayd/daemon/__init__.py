"""Start, reload, drain, stop."""
