"""The parts of the converged solver: rows, losses, preconditioner. `training/converged.py` is the door."""
