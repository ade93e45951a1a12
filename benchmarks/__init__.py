"""The ``erecap`` command line, comparisons, replays and reports. Only this package imports all the others."""
