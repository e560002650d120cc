"""All that a person sees: terminal, HTML, pictures. The only room that imports rich.

Imported by ``cli``.
"""
