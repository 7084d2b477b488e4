"""What can be asked, a module for each matter. Handlers run in the thread pool, but for streams."""
