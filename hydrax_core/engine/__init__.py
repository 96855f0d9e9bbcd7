"""From the plan to complete batches in memory."""
