"""The `pbft` command. Each module holds one noun; heavy imports happen inside the functions,
because
`pbft --help` and a shell's completion must answer at once (design: operations.md section 2).
"""
