"""What a summary looks like: tables and plots."""
