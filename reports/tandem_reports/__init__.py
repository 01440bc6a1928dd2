"""Reports, comparisons and verdicts from Tandem's records. Reads runs and traces only; measures nothing."""

__version__ = "0.2.0"
