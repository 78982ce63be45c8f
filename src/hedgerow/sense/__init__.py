"""From samples to model inputs: windows, sensor quality, features, augmentation. Pure."""
