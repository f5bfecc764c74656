"""Unlearning and its audit on tensors alone: no rows, no files, no settings.

Images are float tensors in [0, 1], N x C x H x W, labels int64; a network maps images to logits, normalisation
included.
"""
