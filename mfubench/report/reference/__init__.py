"""Check reference results, those in outputs/reference/<hardware>/<study>/."""
