"""What a run hands over: the distilled set in two formats, its gallery and the result page."""
