# The workspace in a container, for machines that are not Linux:
#   docker build -t mentorlib . && docker run --rm -it -p 8888:8888 mentorlib
# It opens JupyterLab; another command runs instead if one is given, such as `make study`. Results stay in the container's /mentorlib
# unless folders are mounted: -v "$PWD/runs:/mentorlib/runs" -v "$PWD/reports:/mentorlib/reports".
# Tried on 2026-12-01 with buildah on Linux, from a Debian 12 image with Python 3.11.2 in the place of python:3.11-slim: 2.7 GB with
# torch's CPU build; doctor, notebook 00 and JupyterLab ran in it.
# Docker's own seccomp profile forbids user namespaces, so that bubblewrap is not used; the sandbox's other layers are
# (`python -m mentorlib doctor` lists them).
FROM python:3.11-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends bubblewrap git make \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 1000 mentor && mkdir /mentorlib && chown mentor /mentorlib
USER mentor
WORKDIR /mentorlib
COPY --chown=mentor . .
RUN make .venv/.installed
EXPOSE 8888
CMD [".venv/bin/python", "-m", "mentorlib", "lab", "--ip=0.0.0.0", "--no-browser"]
