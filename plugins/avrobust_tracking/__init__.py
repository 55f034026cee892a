"""Trackers: training curves and results for TensorBoard and MLflow."""
