"""What runs inside Transform and Trainer."""
