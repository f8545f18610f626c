"""The table. It is there because the release command made it, before the first Machine was asked anything."""

from django.db import migrations, models


class Migration(migrations.Migration):
    operations = (
        migrations.CreateModel(
            name="Visit",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("machine", models.CharField(max_length=32)),
                ("at", models.DateTimeField(auto_now_add=True)),
            ],
        ),
    )
