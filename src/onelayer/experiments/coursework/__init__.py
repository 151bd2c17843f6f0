"""The coursework that this project started from: its printed figures, and the diagnosis of somebody's own figures."""
