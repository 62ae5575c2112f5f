"""What AugmentPrompts is made of: examples and requests, answers and their faults, and the store in between."""
