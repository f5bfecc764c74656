"""Records and agreements of service and worker: database rows, not neural networks (those are in worker/unlearning/networks.py).

Admission test: would a mismatch between service and worker here be a bug? No torch, numpy or FastAPI is imported.
"""
