"""Who asks: consumers and what they are granted."""
