"""Ten smartwatches, seven shoulder exercises: see `docs/apps/watch.md`."""
