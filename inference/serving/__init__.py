"""What the models in Triton share: requests, batches, and the Hugging Face classes they run.

It runs in the Python of Triton's models, as the package ``serving``, and lies beside the model
repositories, since Triton takes every folder in one for a model. Importing it costs nothing:
torch comes with the modules that name a kind of model, when one of these is loaded.
"""
