"""The relayd command."""
