"""What a stage costs: MACs by length, and measured milliseconds."""
