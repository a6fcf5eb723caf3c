"""How do I try it? Four real services, an order saga over them, and a drive through both."""
