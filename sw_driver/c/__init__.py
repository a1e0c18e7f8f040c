"""The driver in C (lacuna.h, lacuna.c), and compiled programs as C (export)."""
