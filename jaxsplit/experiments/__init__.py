"""Experiments: configuration files, and the trainings and measurements that they describe."""
