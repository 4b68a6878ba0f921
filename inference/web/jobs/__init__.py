"""Jobs of the service: their queue, files and options, and the processes that work on them."""
