"""How is it called where no script is installed? ``python -m eventsaga``."""

from eventsaga.cli import main

if __name__ == "__main__":
    main()
