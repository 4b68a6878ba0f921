"""Videos and mesh labels to training sets of displacements and speech features."""
