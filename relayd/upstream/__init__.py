"""Named groups of endpoints and their live state."""
