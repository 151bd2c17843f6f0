"""Run directories: what training leaves, and who may write there."""
