"""The dialects of AI APIs and the one canonical form between them; sans-I/O."""
