"""Other uses of norms: filtering, confidence, out-of-distribution detection, specificity."""
