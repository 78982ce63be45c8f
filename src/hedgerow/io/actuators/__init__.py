"""What acts on decisions, one file a kind; `base` says what an actuator is."""
