"""What klaviyo-audit costs, as ratios against the same thing without it."""
