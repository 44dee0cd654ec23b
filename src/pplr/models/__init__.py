"""Language models, their adapters, and the backbones that recommend with them. Knows no client and no network."""
