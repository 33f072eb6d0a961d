"""Named Byzantine behaviours: rewriters of what a replica wants done (design: adversary.md).

They wrap the core and never branch inside it. The simulator uses them, and so does a real node that
allows fault injection. `pbft.faults.registry` makes one by name.
"""
