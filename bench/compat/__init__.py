"""Front doors beside the packages whose interfaces they have."""
