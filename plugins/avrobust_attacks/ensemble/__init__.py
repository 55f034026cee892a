"""Several attacks, one after the other, each on the clips that the earlier ones have not broken."""
