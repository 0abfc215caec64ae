"""Where entries go beside the journal."""
