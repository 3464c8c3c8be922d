"""A configuration compiled into what the data path reads."""
