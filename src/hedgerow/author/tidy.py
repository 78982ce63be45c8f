def simplify(g): pass
