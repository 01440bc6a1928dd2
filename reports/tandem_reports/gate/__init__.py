"""What is concluded from several runs: a comparison, verdicts, a trend, and how often the gate is wrong."""
