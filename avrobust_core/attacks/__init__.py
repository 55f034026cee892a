"""Attacks: what they are, the victim that they see, their goals, running one and verifying what it returns."""
