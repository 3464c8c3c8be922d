"""relayd: an AI gateway and reverse proxy in one event-driven process."""

__version__ = "0.1.0"
