# The book and everything that runs it, from the lock: docker build -t hetpure . && docker run --rm hetpure make test
FROM python:3.11-slim-bookworm

RUN apt-get update \
    && apt-get install -y --no-install-recommends chromium git make \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /hetpure
COPY requirements.lock pyproject.toml README.md LICENSE LICENSE-text Makefile hetpure_core.py ./
COPY hetpure_lab hetpure_lab
COPY weights weights
RUN make setup

COPY . .
# The copy brought no newer sources than the lock: the environment stays as it is.
RUN touch .venv/.installed

CMD ["make", "run"]
