"""A plugin of avrobust: how audible and how visible perturbations are, as a metric and as limits of any attack."""
