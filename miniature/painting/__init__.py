"""The painting half of Miniature: what the training and measuring of its small Stable Diffusion share."""
