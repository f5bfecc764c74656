"""What the pipeline does for each kind of job: a plan and files in, a result and files out. No rows, no database."""
