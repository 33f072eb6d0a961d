"""The scenarios of `pbft demo`: what a textbook tells about PBFT, seen on the real protocol
(operations.md section 6).
"""
