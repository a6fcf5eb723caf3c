"""How is it kept? `ports` says what a store can do, `postgres` does it."""
