"""Federated algorithms, one file and one paper each: both halves as pure functions."""
