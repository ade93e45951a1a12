"""Work over several processes, and over several devices."""
