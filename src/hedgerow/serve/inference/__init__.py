"""Models at work: in a process of their own that may crash or hang, or in the agent's."""
