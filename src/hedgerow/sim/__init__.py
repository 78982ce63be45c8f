"""Fleets in virtual time: the batched learning engine, data spread over clients, faults."""
