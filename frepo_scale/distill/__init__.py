"""The algorithms: their interface, FRePo, RCIG; the distilled set, the pool, the outer step."""
