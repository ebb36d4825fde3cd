"""frepo_scale: dataset distillation by neural feature regression, at any scale."""
