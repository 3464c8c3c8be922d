"""The only room that knows libcurl."""
