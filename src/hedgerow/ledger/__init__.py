"""Records that show when they were changed: hash chains, signed checkpoints, their verification."""
