"""Contact with the outside: links, stores, sensors, keys, clock, entropy."""
