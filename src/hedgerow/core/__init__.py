"""Ground floor: layouts, schemas, fixed point, named random streams, errors.

Pure; imports no room.
"""
