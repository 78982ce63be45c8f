"""Sparkplug B 3.0: payloads, and the rules of a session for both of its ends."""
