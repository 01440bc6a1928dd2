"""What is read: records, samples, environments, profiles and traces, strictly and whole."""
