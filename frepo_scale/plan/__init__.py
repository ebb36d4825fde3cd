"""What a recipe would cost on a machine that is not there."""
