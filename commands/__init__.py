"""The commands of ``python main.py``: a module for each subject.

A module imports what its command needs only when it runs: no tool should pay for another's
libraries.
"""
