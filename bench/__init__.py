"""Measurements that are run by hand: `make bench` and `make bench-etcd`."""
