"""What ours are timed against: layers, models and training loops by other hands, most of them in PyTorch."""
