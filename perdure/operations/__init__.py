"""What an operator does to a whole store: copies, copies as of a time, sizes.

It works on the store's file itself, beside the `Store` protocol: a backup is taken while a server
writes, and a restore is made before one starts.
"""
