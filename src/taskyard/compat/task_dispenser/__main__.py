"""`python -m taskyard.compat.task_dispenser`."""

from taskyard.compat.task_dispenser.main import main

if __name__ == "__main__":
    main()
