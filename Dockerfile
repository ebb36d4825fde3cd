# An image that runs `frepo-scale` on CPUs, GPUs or TPUs:
#   docker build --build-arg KIND=gpu -t frepo-scale .      # base (the default), gpu or tpu
#   docker run --rm --init -v "$PWD/runs:/work/runs" frepo-scale distill digits_ipc1.gin
# The packages are those of requirements/KIND.txt, with hashes. It was written without a machine that can
# build images, so it has not been built yet (docs/limitations.md).
FROM python:3.12-slim
ARG KIND=base

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
# Exec form: SIGTERM reaches the program, which saves.
ENTRYPOINT ["frepo-scale"]
CMD ["--help"]
