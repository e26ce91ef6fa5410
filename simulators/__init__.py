"""Environments made of Bernoulli prompts: cheap, exact where that is possible, and paired by seed."""
