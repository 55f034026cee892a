"""Convexity: is a point between two clips of a class of that class, too?"""
