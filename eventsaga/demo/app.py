"""What does a worker of the demo run? ``eventsaga worker eventsaga.demo.app:orchestrator``.

The database and the services come from the environment: ``EVENTSAGA_DATABASE_URL``, and
``EVENTSAGA_DEMO_ORDERS_URL``, ``…_INVENTORY_URL``, ``…_PAYMENTS_URL`` and ``…_SHIPPING_URL``.
"""

import os

from eventsaga.client import Orchestrator
from eventsaga.demo.order import ServiceUrls, order_saga
from eventsaga.demo.orphan import end_with_parent
from eventsaga.errors import SettingsError


def _database_url() -> str:
    url = os.environ.get("EVENTSAGA_DATABASE_URL")
    if not url:
        raise SettingsError("set EVENTSAGA_DATABASE_URL to the database of the demo")
    return url


end_with_parent()
orchestrator = Orchestrator(_database_url(), sagas=[order_saga(ServiceUrls.from_environment())])
