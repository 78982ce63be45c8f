"""The shells: an agent on a device, a coordinator, a server; machines wired to I/O."""
