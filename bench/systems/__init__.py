"""The package and others that do something alike, each behind the same few methods, so that one loop measures all.

A *sender* commits changes of one size, and a *receiver* in another process gets every one of them, in order. What is
another process here is another machine in earnest.
"""
