"""The demo: a simulated set through the commands a user types, scored against its truth."""
