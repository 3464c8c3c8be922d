"""The path of a request, room by room."""
