"""How it is shown: tables, pages, figures, text for a terminal, Markdown, CSV, JSON."""
