"""The verbs of the relayd command, one file each."""
