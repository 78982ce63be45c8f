"""The edge: many sensors through one model, in batches, to decisions and to what acts on them."""
