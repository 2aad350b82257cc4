# What launch/gke.py runs; made and put where a cluster finds it by
#     docker build --tag=IMAGE . && docker push IMAGE
# or by gcloud builds submit --tag=IMAGE. For GPUs --build-arg=EXTRA=cuda, for CPUs
# --build-arg=EXTRA= (nothing).
FROM python:3.12-slim
ARG EXTRA=tpu
ENV PYTHONUNBUFFERED=1
WORKDIR /pav_jax
RUN pip install --no-cache-dir uv==0.13.9
COPY LICENSE README.md pyproject.toml requirements.lock setup.py ./
COPY experiments experiments
COPY pav_jax pav_jax
RUN uv pip install --system --no-cache --constraint=requirements.lock ".[$EXTRA]" gcsfs
