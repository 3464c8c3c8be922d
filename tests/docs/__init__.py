"""What the generated documents are made by: pages of the manual, completions, and the samples behind them."""
