"""Files made from a distilled set: the formats of `export`, the gallery, reports, comparisons."""
