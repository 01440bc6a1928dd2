"""Tandem's models, seeded weights, inputs and stopping rule in Python: what an engine needs to measure the same."""
