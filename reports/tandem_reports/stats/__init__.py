"""What is worked out of one run or one trace: statistics of cases, where the time of a trace goes."""
