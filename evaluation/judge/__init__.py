"""How far a sync judge can be trusted."""
