"""Labels, crops, augmentation and losses of the landmark trainer."""
