"""Reproduce a published study: its tables beside what was measured."""
