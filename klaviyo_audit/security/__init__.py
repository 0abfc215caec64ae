"""Keys and what they may do: finding exposed ones, looking after them, least privilege."""
