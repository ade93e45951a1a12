"""Reports: results as text, tables and plots."""
