"""Which labelled segments a student should learn from, and why each of them."""
