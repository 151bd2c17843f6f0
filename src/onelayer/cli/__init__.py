"""The command line. It parses, prints and shows progress; the rooms below do the work."""
