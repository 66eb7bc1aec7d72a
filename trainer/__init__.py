"""The programs of a training job and of an endpoint: five steps and a scoring server.

Most modules are programs, started as `python -m trainer.<module>`. None of them knows Azure, Prefect
or the emulator: they read files, write files and report to MLflow.
"""
