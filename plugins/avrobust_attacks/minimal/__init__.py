"""Attacks that look for the smallest perturbation that reaches the goal."""
