"""`python -m taskyard`."""

from taskyard.cli import main

if __name__ == "__main__":
    main()
