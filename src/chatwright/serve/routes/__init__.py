"""The endpoints, a file for each kind. The guard and the shape of errors stand in front of all of them."""
