"""What can be read from what leaves a client: attacks, and what they found."""
