"""From model outputs to decisions: thresholds with hysteresis and a reason in words. Pure."""
