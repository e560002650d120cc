"""Tables of a user's own: text and typed columns to inputs and targets."""
