"""What the training loops share; nothing about a particular network."""
