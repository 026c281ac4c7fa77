"""Stand-ins for the models, made of NumPy and Pillow, which the preview repository serves.

They keep the contracts of the real models, use only colour, brightness and texture, and say
that they are a preview. They run in Triton's Python, where the project is not installed, so this
package imports only ``serving``.
"""
