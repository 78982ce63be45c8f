"""From many updates to one."""
