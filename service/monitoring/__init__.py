"""What Prometheus scrapes: the rows as numbers, what has ended since this process began, and the requests it answered.

No worker has a port: all that a worker does is in its rows, and the rows are the truth. Labels are kinds, states, codes,
phases, route templates and names of models; never an identifier of a person, nor an id of a row.
"""
