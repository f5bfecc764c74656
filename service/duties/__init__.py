"""What the dispatcher does in each round, one file a duty; each effect is a guarded move, so twice does nothing twice."""
