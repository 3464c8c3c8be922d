"""Routing: the route of a request, and why it was chosen."""
