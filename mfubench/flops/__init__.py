"""Count the FLOPs of a training step on the meta device: a model and a mode make a Profile, any micro-batch a FlopCount.

Importing its modules imports neither torch nor transformers; counting does.
"""
