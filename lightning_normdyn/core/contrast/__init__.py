"""The mathematics of contrastive losses: similarities with exponents, streamed log-sum-exp, exclusion of pairs."""
