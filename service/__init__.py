"""HTTP in, rows out. Imports models only; never torch, numpy or pillow."""
