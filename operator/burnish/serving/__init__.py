"""Everything Triton reads, written by pure typed code: config.pbtxt, model repository, the table of serving images."""
