"""Sensors: where samples come from."""
