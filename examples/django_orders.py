"""Django: a saga is started by SQL, in the transaction of the view; no event loop is needed.

    EVENTSAGA_DATABASE_URL=postgresql://… python -m examples.django_orders

It places two orders, of which the second fails in the middle of its view, and prints what is
left. `eventsaga worker examples.orders:order_saga` runs the saga.
"""

# Django ships no types.
# pyright: basic, reportAttributeAccessIssue=false, reportOptionalSubscript=false, reportArgumentType=false
# mypy: disable-error-code="misc, untyped-decorator"

import json
import os

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.db import connection, models, transaction
from django.http import HttpRequest, JsonResponse
from django.test import Client
from django.urls import path
from sqlalchemy import make_url

_url = make_url(os.environ["EVENTSAGA_DATABASE_URL"])
settings.configure(
    ALLOWED_HOSTS=["testserver", "127.0.0.1"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": _url.database,
            "USER": _url.username,
            "PASSWORD": _url.password,
            "HOST": _url.host or _url.query.get("host", ""),
            "PORT": str(_url.port or _url.query.get("port", "")),
        }
    },
    ROOT_URLCONF=__name__,
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    SECRET_KEY="an example has none",  # noqa: S106
)
django.setup()


class OrderRow(models.Model):
    """An order as the application keeps it."""

    total = models.IntegerField()

    class Meta:
        """Where it is."""

        app_label = "examples"
        db_table = "django_orders"

    def __str__(self) -> str:
        return f"order {self.pk}"


def start_saga(name: str, context: dict[str, object], key: str) -> str:
    """Start a saga in the transaction that is open; return its id."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT eventsaga.start_saga(%s, %s::jsonb, key => %s)",
            [name, json.dumps(context), key],
        )
        (saga_id,) = cursor.fetchone()
    return str(saga_id)


@transaction.atomic
def place(request: HttpRequest) -> JsonResponse:
    row = OrderRow.objects.create(total=int(request.GET.get("total", "0")))
    saga_id = start_saga("order", {"order_id": row.pk, "total": row.total}, f"order-{row.pk}")
    if row.total <= 0:
        raise ValueError("an order of nothing")
    return JsonResponse({"order_id": row.pk, "saga_id": saga_id}, status=201)


urlpatterns = [path("orders", place)]
application = get_wsgi_application()


def main() -> None:
    with connection.schema_editor() as editor:
        editor.create_model(OrderRow)
    client = Client(raise_request_exception=False)
    placed = client.post("/orders?total=10")
    print(placed.status_code, placed.json()["saga_id"])
    print(client.post("/orders?total=0").status_code)
    print(f"{OrderRow.objects.count()} order")


if __name__ == "__main__":
    main()
