#!/usr/bin/python3
"""The program as a user meets it: words, exit codes, files. Usage: NAVE=path program.py [CASE]"""
import importlib
import sys

from rig import CASES


def main():
    for module in ("command_line", "running", "commands", "following"):
        importlib.import_module(module)
    for name in sys.argv[1:] or list(CASES):
        CASES[name]()
        print("ok", name)


main()
