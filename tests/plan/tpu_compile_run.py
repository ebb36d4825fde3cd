"""Compiles a recipe's outer step for a TPU slice and prints cost, collectives and estimate as JSON.

A separate program, because only one process may load the TPU compiler. Arguments: recipe, slice, a
JSON object of settings.
"""

import json
import os
import sys

os.environ["XLA_FLAGS"] = ""  # compiled as on a pod, not as in the tests
# A sixth of the compiler's time; memory differs by 1 %, the collectives not at all.
os.environ["JAX_EXEC_TIME_OPTIMIZATION_EFFORT"] = "-1.0"

from frepo_scale import config
from frepo_scale.jobs.plan import compile_recipe
from frepo_scale.jobs.plan_options import GivenSizes
from frepo_scale.jobs.subject import sizes_of_data, subject_of
from frepo_scale.plan.collectives import collectives
from frepo_scale.plan.compile import cost_of
from frepo_scale.plan.hardware import parse_hardware
from frepo_scale.plan.plan import make_plan
from frepo_scale.plan.topology import tpu_devices


def main():
    settings = {name: str(value) for name, value in json.loads(sys.argv[3]).items()}
    recipe = config.load_recipe(config.find_recipe(sys.argv[1]), settings)
    mesh = recipe.config.mesh
    compiled = compile_recipe(recipe.config, tpu_devices(sys.argv[2]))
    found = collectives(str(compiled.as_text()), mesh.pool, mesh.data)
    subject = subject_of("", recipe.config, *sizes_of_data(recipe.config, GivenSizes()))
    estimate = make_plan(subject, parse_hardware(sys.argv[2]), mesh.pool, mesh.data).memory
    result = {"cost": cost_of(compiled)._asdict(), "found": [c._asdict() for c in found]}
    result["estimate"] = {"total": estimate.total, "arguments": estimate.state + estimate.batch}
    print("RESULT " + json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
