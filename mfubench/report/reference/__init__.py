"""Reference results: outputs/reference/<hardware>/<study>/ in; what is wrong with them, and the README's tables, out."""
