"""What else norms are good for: filtering, confidence, out-of-distribution detection, specificity."""
