"""Segmentation by prompt: the question, the mask or *not found*, and the training."""
