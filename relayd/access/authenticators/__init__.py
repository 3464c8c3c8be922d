"""Authentication methods of consumers, one file per key of `consumers:`, each with `Options` and `Authenticator`."""
