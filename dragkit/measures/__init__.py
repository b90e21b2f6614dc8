"""Measurements: how close a reconstruction is, whom it gives away, what a defence costs. None is an input of an attack."""
