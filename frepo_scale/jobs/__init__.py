"""The jobs `run` composes: their parts, one distillation from start to result, what it leaves."""
