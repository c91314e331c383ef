"""How a verdict gets trustworthy: interleaved rounds, intervals, limits. The statistics are pure."""
