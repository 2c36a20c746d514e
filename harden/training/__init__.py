"""The loop of Algorithm 2, what outlives a round, and supervised fits of a policy."""
