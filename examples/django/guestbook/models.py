"""Who was here."""

from django.db import models


class Visit(models.Model):
    machine = models.CharField(max_length=32)
    at = models.DateTimeField(auto_now_add=True)
