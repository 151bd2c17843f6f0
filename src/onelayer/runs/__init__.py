"""Run directories: their files, their plans, training in them, and the claim of the process that writes there."""
