"""Settings, from the environment where hosts differ."""

import os
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent
SECRET_KEY = os.environ["DJANGO_SECRET_KEY"]
ALLOWED_HOSTS = os.environ.get("DJANGO_ALLOWED_HOSTS", "localhost").split(",")
REDIS_URL = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")
# Set by asgi.deploy.
RELEASE = os.environ.get("ASGI_RELEASE", "")
INSTANCE = os.environ.get("ASGI_INSTANCE", "")

INSTALLED_APPS = ["django.contrib.staticfiles", "wall"]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "wall.urls"
ASGI_APPLICATION = "wall.asgi.application"
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": os.environ.get("DB_HOST", "/run/postgresql"),
        "NAME": os.environ.get("DB_NAME", "wall"),
        "USER": os.environ.get("DB_USER", "wall"),
        "PASSWORD": os.environ.get("DB_PASSWORD", ""),
        # Connections that stay open belong to a thread, and with ASGI threads come and go.
        "OPTIONS": {"pool": {"min_size": 1, "max_size": 8, "timeout": 5}},
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        "CONFIG": {"hosts": [REDIS_URL]},
    }
}

STATIC_URL = "/static/"
# In the release: `manage.py collectstatic` is a step of its build.
STATIC_ROOT = BASE_DIR / "staticfiles"
STORAGES = {
    # Names have a digest of the content, so clients keep the files, and ask for new ones at once.
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.ManifestStaticFilesStorage"}
}
USE_TZ = True
# To the journal, as a service should.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "loggers": {"django": {"handlers": ["console"], "level": "WARNING"}},
}
