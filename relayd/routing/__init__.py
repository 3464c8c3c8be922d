"""Which route takes a request, and why."""
