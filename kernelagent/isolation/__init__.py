"""What runs is kept away from the service: layers, and the process that starts everything in them.

`spawner` is that process; `calls`, `cover`, `landlock`, `privileges` and `seccomp` are loaded by it
and import nothing but the standard library.
"""
