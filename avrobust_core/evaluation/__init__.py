"""What is kept of an evaluation: predictions, outcomes, shards of work, failures, and how each is worded."""
