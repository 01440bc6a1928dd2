"""Hugging Face transformers as an engine: `engine.py` is the program to start."""
