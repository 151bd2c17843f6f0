"""Training: from splits and settings to a model with its evidence."""
