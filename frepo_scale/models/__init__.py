"""Networks: each maps images to (logits, features)."""
