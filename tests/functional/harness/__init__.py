"""What the functional tests stand on: a real relayd, a scripted upstream and a client that sends exactly its bytes."""
