# docker build --tag fanogan --build-arg TORCH_INDEX=… .
# TORCH_INDEX is the index of PyTorch's wheels for a processor alone, which are small, or for your CUDA; its page
# "Get started" names them. Without it pip's own index is asked, which has those for CUDA.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
ARG TORCH_INDEX=
ARG EXTRAS=oct,dicom,nifti,serve
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
# Torch first and alone, so that it is of the build that was asked for; what it needs comes after.
RUN python -m venv /opt/fanogan \
    && /opt/fanogan/bin/pip install --no-cache-dir --constraint constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} --no-deps torch \
    && /opt/fanogan/bin/pip install --no-cache-dir --constraint constraints.txt ".[$EXTRAS]"

FROM python:${PYTHON}-slim
COPY --from=build /opt/fanogan /opt/fanogan
RUN useradd --create-home --uid 1000 fanogan && install --directory --owner fanogan /work
ENV PATH=/opt/fanogan/bin:$PATH MPLCONFIGDIR=/tmp/matplotlib
USER 1000
WORKDIR /work
EXPOSE 8000
# Of the service; other commands have none.
HEALTHCHECK --start-period=60s --timeout=5s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["fanogan"]
CMD ["serve", "/model", "--host", "0.0.0.0"]
