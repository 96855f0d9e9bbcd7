"""What is loaded: groups, the layouts of their arrays, the identity of their items."""
