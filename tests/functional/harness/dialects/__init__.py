"""AI dialects as the tests see them: scripted back-ends that are strict, and clients that believe nothing."""
