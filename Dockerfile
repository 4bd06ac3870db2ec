# Images with everything installed; /opt/intarsia is the checkout, and `intarsia` is on the PATH.
#
#     docker build --target cpu -t intarsia:cpu .
#     docker build --target cuda -t intarsia:cuda .
#     docker run --rm --gpus all --ipc host -v "$PWD:/work" -w /work intarsia:cuda intarsia training CONFIG.yaml ...
#
# The CUDA image has the CUDA of torch's build on PyPI; --build-arg CUDA_IMAGE=... takes another.
# Under Slurm: CONTAINER=IMAGE sbatch slurm/train.sh ... (docs/slurm.md)
ARG CPU_IMAGE=debian:bookworm-slim
ARG CUDA_IMAGE=nvidia/cuda:13.0.2-devel-ubuntu24.04

FROM ${CPU_IMAGE} AS cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV VENV=/opt/venv UV_INDEX=${TORCH_INDEX} UV_INDEX_STRATEGY=unsafe-best-match UV_NO_CACHE=1
COPY . /opt/intarsia
RUN /opt/intarsia/docker/install.sh --system dataprep,cv2,heif,training,web,low-memory,slurm
ENV PATH=/opt/venv/bin:${PATH} RAY_USAGE_STATS_ENABLED=0
WORKDIR /opt/intarsia
CMD ["intarsia", "--help"]

# DeepSpeed compiles the optimizer in the CPU's memory (offload) at its first use, with this image's nvcc.
FROM ${CUDA_IMAGE} AS cuda
ENV VENV=/opt/venv UV_NO_CACHE=1
COPY . /opt/intarsia
RUN /opt/intarsia/docker/install.sh --system dataprep,cv2,heif,training,web,low-memory,slurm
ENV PATH=/opt/venv/bin:${PATH} RAY_USAGE_STATS_ENABLED=0
WORKDIR /opt/intarsia
CMD ["intarsia", "--help"]
