"""Models of the benchmarks: author scripts, and the bundles they compile to."""
