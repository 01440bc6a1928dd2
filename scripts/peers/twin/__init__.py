"""Tandem's models, seeded weights, inputs, stopping rule and passes in Python: what an engine needs to measure the same."""
