"""The report: one HTML file of a run, a sweep or a study, which opens without a network."""
