"""The rules of gate 1, one function each: they read a whole config and yield what is wrong with it.

A rule must hold for every family, mesh and format alike; what is special to one of them is in the facts it is given.
To add a rule, write a function and name it in the `RULES` of its file.
"""
