"""Chat data: where it comes from, which rows are taken, whether they are fit, and the files that a job takes."""
