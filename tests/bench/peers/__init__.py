"""The proxies that relayd is measured beside."""
