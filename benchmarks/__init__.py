"""The `erecap` command line, comparisons, replays and reports: the only package that knows all the others."""
