"""Where metrics go; one file per kind."""
