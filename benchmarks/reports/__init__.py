"""Reports: what results look like as text, tables and plots."""
