ARG PYTHON_VERSION=3.12
FROM python:${PYTHON_VERSION} AS build
ENV VIRTUAL_ENV=/venv PATH=/venv/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /code

# What it needs, before the source: a changed line installs nothing.
RUN python -m venv /venv
COPY requirements.txt ./requirements.txt
RUN pip install -r requirements.txt

FROM python:${PYTHON_VERSION}-slim
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
RUN useradd --uid 1000 --create-home --shell /usr/sbin/nologin app
WORKDIR /code
COPY --from=build /venv /venv
COPY . .
RUN SECRET_KEY=only-for-the-build DATABASE_URL=sqlite:// python manage.py collectstatic --noinput

USER app
EXPOSE 8000
CMD ["gunicorn", "--bind", "0.0.0.0:8000", "--workers", "2", "proj.wsgi"]
