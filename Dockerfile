# An image that runs `frepo-scale` on CPUs, GPUs or TPUs:
#   docker build --build-arg KIND=gpu -t frepo-scale .      # base (the default), gpu or tpu
#   docker run --rm -v "$PWD/runs:/work/runs" frepo-scale distill digits_ipc1.gin
# The packages are those of requirements/KIND.txt, with hashes. BASE is any image with Python 3.11 to 3.13 as
# `python` and apt-get, for example one of your own registry.
ARG BASE=docker.io/library/python:3.12-slim
FROM ${BASE}
ARG KIND=base

# As process 1 the program would not get signals that it does not handle: those before it has started, and
# the watchdog's alarm. tini is process 1 instead and forwards signals.
RUN apt-get update && apt-get install --yes --no-install-recommends tini && rm -rf /var/lib/apt/lists/*

# On a CPU, JAX's LAPACK is SciPy's OpenBLAS, which is slower with several threads on busy cores; huge pages
# save page faults (both as in launch/python_env.sh).
ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    OPENBLAS_NUM_THREADS=1 \
    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 \
    TF_CPP_MIN_LOG_LEVEL=2

WORKDIR /opt/frepo_scale
# First what changes rarely: the packages, which are not installed again for a change of the code.
COPY requirements/${KIND}.txt requirements.txt
RUN python -m pip install --require-hashes -r requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY frepo_scale frepo_scale
COPY gin gin
RUN python -m pip install --no-deps -e .

# Relative workdirs (runs/RECIPE) are here: mount a volume, or give --workdir gs://...
WORKDIR /work
# -s: also where another program is process 1, as in Apptainer.
ENTRYPOINT ["tini", "-s", "--", "frepo-scale"]
CMD ["--help"]
