"""What may change: budgets, threat models, balls and their projections, regions, Pareto directions."""
