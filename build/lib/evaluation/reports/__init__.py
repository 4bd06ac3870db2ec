"""Reports as text, Markdown, CSV and one HTML page; reports compared."""
