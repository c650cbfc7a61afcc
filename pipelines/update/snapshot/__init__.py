"""Building a snapshot in the idle slot, proving it, promoting it, and going back."""
