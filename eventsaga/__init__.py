"""eventsaga: an event-sourced saga orchestrator that lives in your own PostgreSQL."""

__version__ = "0.1.0"
