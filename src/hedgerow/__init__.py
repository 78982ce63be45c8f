"""Hedgerow: federated edge AI for the Internet of Things."""

import os

# From 1.29 on ONNX Runtime reports its use to its maker over HTTPS, and leaves an identifier on
# disk, unless this is set before it is loaded. From a Hedgerow device nothing leaves but what its
# owner can see.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

__version__ = "0.1.0"
