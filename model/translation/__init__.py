"""Generators that give a picture the look of another domain."""
