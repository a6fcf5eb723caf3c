"""How is it watched, and helped, in a browser? An ASGI app, alone or mounted in the user's own."""

from eventsaga.dashboard.app import Dashboard, dashboard

__all__ = ["Dashboard", "dashboard"]
