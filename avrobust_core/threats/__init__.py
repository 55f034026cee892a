"""Changes that an attack may make: budgets, threat models, balls and their projections, regions, Pareto directions."""
