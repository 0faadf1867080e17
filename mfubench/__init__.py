"""mfubench: how well LLM fine-tuning frameworks use the hardware, measured from outside."""

__version__ = "0.1.0"
