"""The default engine: moves face mesh points to the lip shape predicted from speech."""
