"""Reports of curves, plans and searches: tables as text, plots, and HTML pages."""
