"""Pictures: numbers in, matplotlib figures out."""
