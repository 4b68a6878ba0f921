"""The default way: mesh points moved to the shape that the speech asks for."""
