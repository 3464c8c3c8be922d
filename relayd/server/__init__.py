"""Where clients arrive: listeners, HTTP/1.1 connections, the admin application."""
