"""Commands: `relay` and `relay-node`. They parse before anything heavy is imported."""
