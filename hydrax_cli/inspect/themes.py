"""The colours of the screens."""

from __future__ import annotations

from textual.theme import Theme

__all__ = ["DARK", "LIGHT"]

DARK = Theme(
    name="hydrax-dark",
    primary="#5aa9f0",
    secondary="#8196b3",
    accent="#4cc3b5",
    success="#79c97f",
    warning="#e8b04c",
    error="#ef6f7c",
    foreground="#d6dde8",
    background="#0f141b",
    surface="#141b24",
    panel="#263141",
    dark=True,
    variables={
        "cursor": "#1d3b59",
        "dim": "#8795a8",
        "faint": "#37445a",
        "footer-background": "#1a2330",
        "footer-description-foreground": "#a9b5c5",
        "footer-key-foreground": "#5aa9f0",
        "block-cursor-text-style": "none",
    },
)
LIGHT = Theme(
    name="hydrax-light",
    primary="#1c64ad",
    secondary="#5b6b80",
    accent="#0f7f74",
    success="#2f7d3a",
    warning="#9a6200",
    error="#bd2f43",
    foreground="#242b36",
    background="#f8f7f3",
    surface="#ffffff",
    panel="#d5d3ca",
    dark=False,
    variables={
        "cursor": "#cfe2f5",
        "dim": "#6a7280",
        "faint": "#c4c1b6",
        "footer-background": "#eceae3",
        "footer-description-foreground": "#4d5665",
        "footer-key-foreground": "#1c64ad",
        "block-cursor-text-style": "none",
    },
)
