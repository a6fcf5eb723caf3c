"""How does a saga stand in a file? Lines of JSON, packed batch by batch, that can be checked."""
