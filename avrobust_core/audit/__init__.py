"""The audit: other probes than the attack's own, on a bounded subset, that say whether a number can be believed."""
