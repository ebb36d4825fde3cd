"""Sources of images: one module for each form, and the table of known data sets."""

from frepo_scale.data.sources.specs import SPECS, DatasetSpec, spec_for

__all__ = ["SPECS", "DatasetSpec", "spec_for"]
