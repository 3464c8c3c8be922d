"""What needs the library of python3-redis: loaded only if a store of the kind `redis` is configured."""
