"""The client side: listeners, HTTP/1.1 connections, the admin application."""
