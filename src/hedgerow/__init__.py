"""Hedgerow: federated edge AI for the Internet of Things."""

__version__ = "0.1.0"
