"""`python -m kernelagent`."""

from kernelagent.cli import main

if __name__ == "__main__":
    main()
