"""Admission: who may go on at once, who waits and for how long, who is refused and told when to come back."""
