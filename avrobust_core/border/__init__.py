"""The border: what a model returns and what a loader gives, looked at before anything is computed from it.

`answers`: logits, unwrapped, checked, and what they look like. `trial`: whether a model answers alike twice. `clips`:
batches of a loader. `readings`: whether a loader gives the same clips again. `requests`: what `evaluate` is asked for.
"""
