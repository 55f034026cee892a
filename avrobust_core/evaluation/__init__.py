"""The results of an evaluation: predictions, outcomes, shards of work, failures, and their wording."""
