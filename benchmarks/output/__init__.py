"""Output: files, the log on stderr, the console on stdout."""
