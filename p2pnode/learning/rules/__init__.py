"""How a node turns its own result and what came from partners into its next parameters."""
