"""The dynamics of norms: geometry, moments, balance, the law of each optimizer and the fit of its prediction."""
