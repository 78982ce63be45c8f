"""Machines that hum: what is normal is learned on site, without a label. See `docs/anomaly.md`."""
