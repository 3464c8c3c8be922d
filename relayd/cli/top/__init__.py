"""The live view of `relayd top`: the state of the dashboard's event stream, on a terminal."""
