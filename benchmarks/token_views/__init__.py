"""A prompt's tokens as a picture, and statistics of their saliency."""
