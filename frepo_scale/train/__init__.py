"""The loop: it knows steps, not what they compute."""
