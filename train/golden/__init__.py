"""Cases that the original implementations computed, run through our code."""
