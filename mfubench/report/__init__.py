"""Read results and show them: a table, CSV, JSON, Markdown, one HTML page; compare, pool, and reproduce studies."""
