"""Features: what is done to raw rows before the layer sees them."""
