"""The text-to-image half of Miniature: code shared by the training and evaluation of its small Stable Diffusion."""
