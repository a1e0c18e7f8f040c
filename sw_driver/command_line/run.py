"""check placeholder"""
def add_command(c): pass
