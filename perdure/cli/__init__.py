"""The command line: one file a group of commands.

`dev` and `serve` start a node; `fsck` looks at a data directory that nobody serves; all others talk
to a running node through its HTTP face, and know nothing of what is behind it. Each file is
imported when its command runs, so that `perdure --help` is there at once.
"""
