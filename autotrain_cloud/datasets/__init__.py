"""Data sets: frozen, hashed manifests with parents, and what is done with them."""
