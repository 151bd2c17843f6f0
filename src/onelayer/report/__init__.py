"""The report: one HTML file of a run, a sweep or a study. It opens without a network."""
