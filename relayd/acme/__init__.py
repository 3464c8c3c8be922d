"""Certificates by ACME (RFC 8555): state on disk, schedule, challenges, client, and the thread that orders."""
