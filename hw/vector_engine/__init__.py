"""Vector engine: element-wise and pooling commands, one feature memory word of L channels at a time.

    pixels --> windows -+-> taps -----------+-> word reader -+-> reduce --------+-> post-process --> feature memory
                        +-> depthwise walk -+                +-> depthwise MAC -+

Each file is one of these steps; `engine` connects them. An operator that joins adds what is its own: another
reduction, another post-processing.
"""

from hw.vector_engine.engine import VectorEngine

__all__ = ["VectorEngine"]
