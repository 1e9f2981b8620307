# An index behind HTTP, with its page, on the CPU. The encoder must be named as the container sees it:
#
#     docker build --build-arg TORCH_INDEX=... -t simcse .   # the index of torch's CPU builds; without, the CUDA build, gigabytes of it
#     docker run --rm -p 8000:8000 -v "$PWD/index:/index" -v "$PWD/runs/mine/best:/model:ro" -e SIMCSE_TOKEN=... simcse
#     docker run --rm -v "$PWD:/work" -w /work simcse index build texts.txt --model /work/runs/mine/best --output index

FROM python:3.12-slim AS build
WORKDIR /source
RUN pip install --no-cache-dir build
COPY . .
RUN python -m build --wheel --outdir /wheels

FROM python:3.12-slim
ARG TORCH_INDEX=""
# the first call compiles a kernel for the CPU
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
COPY constraints.txt /wheels/
RUN if [ -n "$TORCH_INDEX" ]; then pip install --no-cache-dir -c /wheels/constraints.txt --index-url "$TORCH_INDEX" torch; fi
COPY --from=build /wheels/ /wheels/
RUN pip install --no-cache-dir -c /wheels/constraints.txt "$(echo /wheels/*.whl)[quickstart,serve,hybrid]"
RUN useradd --create-home simcse
USER simcse
WORKDIR /home/simcse
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz', timeout=5)"]
ENTRYPOINT ["simcse"]
CMD ["serve", "/index", "--model", "/model", "--host", "0.0.0.0", "--port", "8000"]
