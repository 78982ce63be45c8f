"""Benchmarks: what `hedgerow bench …` measures, on the machine it runs on."""
