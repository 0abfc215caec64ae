"""What can be learnt from a trail."""
