"""Convexity: how often points between two clips of a class are of that class, too."""
