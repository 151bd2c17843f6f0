"""The command line. It parses, prints and shows progress; the other packages do the work."""
