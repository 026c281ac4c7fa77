"""Code that the served models share: requests, batches, and the Hugging Face classes they run.

It runs in the Python environment of Triton's models, as the package ``serving``. It lies beside
the model repositories, since Triton treats every folder in a repository as a model. Importing it
is cheap: only the modules that name a kind of model import torch.
"""
