# vlmforge on CUDA. We have not built this image: the machines we work on have neither Docker nor a GPU. Check that
# the tag exists, and that its torch satisfies pyproject.toml, before you rely on it.
#
#   docker build -t vlmforge .
#   docker run --gpus all --ipc=host -v "$PWD:/workspace" vlmforge train recipe=smollm2/gsm8k_sft
#
# --ipc=host: data workers and NCCL share memory, and Docker's 64 MB of it are too few.
ARG BASE_IMAGE=pytorch/pytorch:2.14.1-cuda13.0-cudnn9-runtime
FROM ${BASE_IMAGE}

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_BREAK_SYSTEM_PACKAGES=1 \
    PYTHONUNBUFFERED=1

WORKDIR /opt/vlmforge
COPY pyproject.toml README.md LICENSE ./
COPY src src
COPY configs configs
COPY recipes recipes
# The base image's torch is kept: it was built for its CUDA, and the requirement is a lower bound.
RUN pip install '.[tensorboard]'

# A user of its own: files in mounted folders do not end up as root's, and nothing at run time needs root.
# Override with `--user "$(id -u):$(id -g)"` to own what is written.
RUN useradd --create-home --shell /bin/bash vlmforge \
    && mkdir /workspace \
    && chown vlmforge:vlmforge /workspace
USER vlmforge
WORKDIR /workspace

ENTRYPOINT ["vlmforge"]
CMD ["--help"]
