"""Mix-up guided by density and convexity of the latent space that training itself computes."""
