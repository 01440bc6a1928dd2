"""Figures of a report: pure functions from results to pictures, the same bytes for the same results."""
