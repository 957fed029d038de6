# docker build -t fairweather .
# docker run --rm --gpus all -v "$PWD/data:/fairweather/data" -v "$PWD/runs:/fairweather/runs" fairweather \
#     python -m train.run teacher_r50 --data data/mine --val data/mine-val --out runs/teacher
FROM python:3.11-slim
# torch.compile needs a compiler, predict ffmpeg for films that browsers play; everything else comes with the packages.
RUN apt-get update && apt-get install -y --no-install-recommends gcc g++ ffmpeg && rm -rf /var/lib/apt/lists/*
WORKDIR /fairweather
COPY . .
RUN PIP_NO_CACHE_DIR=1 scripts/setup.sh
ENV PATH=/fairweather/.venv/bin:$PATH FAIRWEATHER_CACHE=/fairweather/.venv/cache \
    TORCH_HOME=/fairweather/runs/.torch
CMD ["fairweather", "--help"]
