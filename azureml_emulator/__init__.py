"""Azure ML's REST API on this machine, with the work behind it: jobs train, models are files, deployments serve.

Start it with `python -m azureml_emulator`; the unmodified azure-ai-ml SDK talks to it over HTTPS.
"""
