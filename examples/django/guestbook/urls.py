"""One page, which counts its visits."""

import os

from django.http import HttpRequest, HttpResponse
from django.urls import path

from guestbook.models import Visit


def index(request: HttpRequest) -> HttpResponse:
    Visit.objects.create(machine=os.environ.get("FLY_MACHINE_ID", ""))
    return HttpResponse(f"Hello from Django: visit {Visit.objects.count()}\n", content_type="text/plain")


urlpatterns = [path("", index)]
