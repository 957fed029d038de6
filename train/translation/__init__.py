"""Unpaired image-to-image translation with a contrastive loss (CUT): pictures of one domain in the look of another."""
