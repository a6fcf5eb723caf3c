"""How is it written down? JSON and nothing else; checked before, hashed after."""
