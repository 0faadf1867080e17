"""Turn an experiment into all that starting the framework takes."""
