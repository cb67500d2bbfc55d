"""What `make bench` measures: taskyard beside a bare `sqlite3` loop of the same rows."""
