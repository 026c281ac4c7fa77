"""Stand-ins for the models, made of NumPy and Pillow: what the preview repository serves.

They hold the contracts of the real models, see colour, brightness and texture only, and say
that they are a preview. They run in Triton's own Python, which has nothing of the project
installed: this package imports nothing of the rest of it.
"""
