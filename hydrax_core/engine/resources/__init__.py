"""What an engine has to share out: slots, their leases, depth and workers."""
