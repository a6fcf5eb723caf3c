"""How does PostgreSQL keep it? One verb a module, each with its SQL.

Functions take a connection first and never commit; every statement commits by itself. The
group-committing writer in `writer` is the only place that appends.
"""
