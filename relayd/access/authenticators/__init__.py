"""How a consumer proves who it is: a file per key of `consumers:`; each has `Options` and one class `Authenticator`."""
